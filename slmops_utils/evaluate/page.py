"""The report card's page: its style, its script, and small pieces of safe HTML.

Whatever comes from a results file or a model goes through `text`, and a policy in the page forbids it to load or run
anything: the page's one script is named by its hash.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1d2330;--soft:#5a6272;--line:#d8dbe2;--box:#f5f6f8;--link:#1f5fa8;
--teacher:#3b4a6b;--untuned:#8d93a1;--baseline:#b06a14;--student:#1d7d5b;--reference:#7d5ba3}
@media (prefers-color-scheme:dark){:root{--page:#14171d;--ink:#e7e9ee;--soft:#a7afbd;--line:#3a404c;--box:#1e222a;
--link:#8ab8f0;--teacher:#9fb3e0;--untuned:#a3a8b4;--baseline:#e5a555;--student:#4cc99a;--reference:#b99be0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem 1.2rem 4rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
a{color:var(--link)}
a.skip{position:absolute;left:-99rem}a.skip:focus{position:static}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
h1{line-height:1.2}h2{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
.soft{color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.3rem .8rem .3rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}
figure{display:inline-block;margin:.5rem 1rem .5rem 0;max-width:100%}
svg{max-width:100%;height:auto}
.controls{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:end;margin:.8rem 0}
.controls[hidden]{display:none}
label{display:flex;flex-direction:column;font-size:.85rem;color:var(--soft)}
select,input,button{font:inherit;color:var(--ink);background:var(--box);border:1px solid var(--line);
border-radius:.3rem;padding:.25rem .5rem}
details.row{border:1px solid var(--line);border-radius:.3rem;margin:.3rem 0;padding:.3rem .7rem}
details.row[hidden]{display:none}
summary{cursor:pointer}
.said{border-left:3px solid var(--line);margin:.5rem 0;padding:.1rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere}
.said b{display:block;font-weight:600;font-size:.85rem;color:var(--soft)}
.right{border-color:var(--student)}.wrong{border-color:var(--baseline)}
@media print{.controls{display:none}}
"""

SCRIPT = """
for (const part of document.querySelectorAll('.errors')) {
  const controls = part.querySelector('.controls'), rows = [...part.querySelectorAll('details.row')];
  const count = part.querySelector('.count'), words = controls.querySelector('input');
  const picks = [...controls.querySelectorAll('select')];
  const texts = rows.map(row => row.textContent.toLowerCase());
  const show = () => {
    const wanted = words.value.toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = picks.every(p => !p.value || row.dataset[p.name] === p.value) && texts[i].includes(wanted);
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown + ' of ' + rows.length + ' rows';
  };
  const visible = () => rows.filter(row => !row.hidden);
  for (const pick of picks) pick.addEventListener('change', show);
  words.addEventListener('input', show);
  controls.querySelector('button.open').addEventListener('click', () => {
    const open = visible().some(row => !row.open);
    visible().forEach(row => { row.open = open; });
  });
  part.addEventListener('keydown', event => {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!step || event.target.tagName !== 'SUMMARY') return;
    const there = visible(), at = there.indexOf(event.target.parentElement) + step;
    if (there[at]) { event.preventDefault(); there[at].querySelector('summary').focus(); }
  });
  controls.hidden = false;
  show();
}
"""


def text(value: Any) -> str:
    """Any value as text that no browser takes for markup, in an element or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def score(found: dict[str, Any]) -> str:
    """A score with its interval, as text."""
    low, high = found["ci95"]
    return f"{percent(found['value'])} ({100 * low:.1f} to {100 * high:.1f})"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """A table of text cells; the columns from `numbers` on are set to the right."""

    def cells(tag: str, row: Sequence[str], scope: str = "") -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numbers else ''}{scope}>{text(cell)}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(
        f"<tr><th scope=row>{text(row[0])}</th>"
        + "".join(
            f"<td{' class=n' if i >= numbers else ''}>{text(cell)}</td>" for i, cell in enumerate(row[1:], start=1)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{text(caption)}"><table><caption>{text(caption)}</caption>'
        f"<thead><tr>{cells('th', head, ' scope=col')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(svg: str | None, title: str, says: str = "") -> str:
    """A figure with its title, which a screen reader says too; nothing where there is no figure."""
    if svg is None:
        return ""
    named = svg.replace("<svg", f'<svg role="img" aria-label="{text(says or title)}"', 1)
    return f"<figure>{named}<figcaption class=soft>{text(title)}</figcaption></figure>"


def page(title: str, body: str) -> str:
    """The whole document. Its policy lets it run its own script and style, and load nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return (
        '<!doctype html><html lang="en-GB"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{text(title)}</title>'
        f'<style>{STYLE}</style></head><body><a class=skip href="#main">To the results</a>{body}'
        f"<script>{SCRIPT}</script></body></html>\n"
    )
