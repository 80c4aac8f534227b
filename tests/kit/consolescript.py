"""A console script as pip installs one, in a directory of its own: for what tcpserver does with --preload."""

import sys
from pathlib import Path

# What pip writes for an entry point.
SCRIPT = """#!{python}
import sys
from {module} import main
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(main())
"""


def install_script(directory: Path, name: str, source: str) -> Path:
    """Install module `name` with a console script of that name for its main(); PYTHONPATH must name the directory."""
    info = directory / f"{name}-1.dist-info"
    script = directory / "bin" / name
    info.mkdir(parents=True)
    script.parent.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "RECORD").write_text(f"{name}.py,,\nbin/{name},,\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{name} = {name}:main\n")
    script.write_text(SCRIPT.format(python=sys.executable, module=name))
    script.chmod(0o755)
    return script


EXECUTE = """
import os, sys

def main():
    '''Do what the client says: Python, up to an empty line.'''
    code = b''
    while not code.endswith(b'\\n\\n'):
        code += os.read(0, 1) or sys.exit()  # the client is gone
    found = {}
    exec(code, found)
    return found.get('status')

serve_client = main  # for --reuse
"""
