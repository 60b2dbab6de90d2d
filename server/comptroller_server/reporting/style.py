"""The style of the report's page: light and dark by the reader's own setting, light on paper."""

from __future__ import annotations

__all__ = ["STYLE"]

_LIGHT = """
  --paper: #ffffff; --ink: #1d2733; --soft: #5a6675; --rule: #d8dee5; --card: #f5f7f9;
  --good: #2a7a4b; --fair: #4a8fc0; --person: #c07f10; --left: #8b95a1; --bad: #b8402c; --wrong: #7d3c98;
  --open: #bfc8d2; --idle: #dfe4ea; --accent: #22608f;
"""
_DARK = """
  --paper: #12171d; --ink: #e6ebf0; --soft: #9fabb8; --rule: #2f3944; --card: #1a2129;
  --good: #58b981; --fair: #6fb1e0; --person: #e0a844; --left: #8b97a4; --bad: #e8745e; --wrong: #c08ad8;
  --open: #566472; --idle: #3a4550; --accent: #7fbbe8;
"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .25rem; }}
p {{ margin: .35rem 0; max-width: 44rem; }}
.soft, figcaption, .tile small {{ color: var(--soft); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0;
  padding: 0; list-style: none; }}
.tile {{ background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .75rem .9rem; }}
.tile b {{ display: block; font-size: 1.55rem; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.tile small {{ display: block; line-height: 1.35; }}
.alarm {{ border-color: var(--bad); border-width: 2px; }}
.alarm b {{ color: var(--bad); }}
figure {{ margin: .75rem 0 0; }}
.plot {{ display: block; width: 100%; height: auto; overflow: visible; }}
.plot text {{ fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }}
.grid {{ stroke: var(--rule); stroke-width: 1; }}
.joined, .span, .stroke {{ stroke: var(--accent); stroke-width: 2; }}
.span {{ stroke-opacity: .45; }}
.dot {{ fill: var(--accent); }}
.ring {{ fill: var(--paper); stroke: var(--accent); stroke-width: 2; }}
.good {{ fill: var(--good); }} .fair {{ fill: var(--fair); }} .person {{ fill: var(--person); }}
.left {{ fill: var(--left); }} .bad {{ fill: var(--bad); }} .wrong {{ fill: var(--wrong); }}
.open {{ fill: var(--open); stroke: var(--left); }} .idle {{ fill: var(--idle); stroke: var(--left); }}
.quiet circle {{ fill: none; stroke: var(--fair); stroke-width: 1.8; }}
.stop path {{ fill: none; stroke: var(--bad); stroke-width: 2; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0; list-style: none;
  font-size: .9rem; }}
.legend li {{ display: flex; align-items: center; gap: .4rem; }}
.sample {{ width: .95rem; height: .95rem; flex: none; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .75rem 0 0; font-size: .92rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; color: var(--soft); padding-bottom: .25rem; }}
th, td {{ padding: .25rem 1.1rem .25rem 0; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }}
th:first-child, td:first-child, th.words, td.words {{ text-align: left; }}
thead th {{ font-weight: 600; color: var(--soft); white-space: nowrap; }}
tbody th {{ font-weight: 500; }}
summary {{ cursor: pointer; color: var(--accent); margin-top: .6rem; }}
code {{ font: .92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
.breach {{ color: var(--bad); font-weight: 600; }}
footer {{ margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--rule); color: var(--soft); font-size: .9rem; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  section, figure, .tile, tr {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  summary {{ display: none; }}
  details.printed::details-content {{ content-visibility: visible; }}
  .scroll {{ overflow: visible; }}
}}
"""
