"""The style of the page: light and dark, from a phone to paper."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1f2328; --dim: #57606a; --line: #8884; --card: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e; --wrong: #fff1f0; --calm: #0969da; --fair: #9a6700; --pink: #8250df; }
@media (prefers-color-scheme: dark) {
  :root { --back: #0d1117; --text: #e6edf3; --dim: #9aa4af; --card: #161b22; --good: #3fb950; --bad: #ff7b72;
    --wrong: #2d1416; --calm: #58a6ff; --fair: #d29922; --pink: #bc8cff; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  overflow-wrap: anywhere; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; color: var(--bad); }
p { margin: .25rem 0; }
.dim, .note, caption, figcaption { color: var(--dim); } .note { font-size: .9rem; }
figcaption b { color: var(--text); display: block; }
.good { color: var(--good); }
.wrong { padding: 0; margin: 0; list-style: none; }
.wrong li { background: var(--wrong); border-left: .4rem solid var(--bad); padding: .6rem .9rem; margin: .5rem 0; }
.tiles { list-style: none; padding: 0; margin: 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.tiles li { background: var(--card); border: 1px solid var(--line); padding: .5rem .75rem; }
.tiles b { display: block; font-size: 1.4rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; }
svg { display: block; width: 100%; height: 6rem; border-bottom: 1px solid var(--dim); fill: var(--calm); }
svg.denied, svg.refused { fill: var(--fair); } svg.messages { fill: var(--good); }
svg.relayed { fill: var(--pink); } svg.failed_logins { fill: var(--bad); }
.axis { display: flex; justify-content: space-between; font-size: .8rem; color: var(--dim); }
details { margin: 1rem 0; } summary { cursor: pointer; }
.tables { columns: 28rem auto; column-gap: 2rem; margin-top: 2rem; }
.tables section { break-inside: avoid; padding-bottom: 1.5rem; } .tables .wide { column-span: all; }
.tables h2 { margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-top: 1px solid var(--line); }
thead th { border: 0; color: var(--dim); font-weight: 600; }
th, td { overflow-wrap: break-word; }
tbody th { font-weight: normal; min-width: 11rem; overflow-wrap: anywhere; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media print {
  :root { font-size: 75%; --back: #fff; --text: #000; --dim: #444; --card: #fff; --wrong: #fff; }
  main { max-width: none; padding: 0; } .scroll { overflow: visible; } details { display: none; }
  figure, tr, .wrong li, .tiles li { break-inside: avoid; } h2 { break-after: avoid; }
  svg { print-color-adjust: exact; }
}
"""
