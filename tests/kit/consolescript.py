"""A console script as pip installs it, in its own directory, for tcpserver's --preload."""

import sys
from pathlib import Path

# The script that pip writes for an entry point.
SCRIPT = """#!{python}
import sys
from {module} import main
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(main())
"""


def install_script(directory: Path, name: str, source: str) -> Path:
    """Install module `name` and a console script for its main(). PYTHONPATH must contain the directory."""
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
    '''Execute Python code from the client, up to an empty line.'''
    code = b''
    while not code.endswith(b'\\n\\n'):
        code += os.read(0, 1) or sys.exit()  # the client is gone
    names = {}
    exec(code, names)
    return names.get('status')

serve_client = main  # for --reuse
"""
