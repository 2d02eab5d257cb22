"""The page's markup and styles (jinja2, autoescaped)."""

# ruff: noqa: E501 (lines of markup and styles)

TEMPLATE = """\
{% macro table(one, style="") %}
<section class="table {{ style }}" id="{{ one.name }}">
<h3>{{ one.title }}</h3>
<div class="scroll"><table{% if one.columns|length > 12 %} class="wide"{% endif %}>
<thead><tr>{% for title, kind in one.columns %}<th{% if kind != "text" %} class="number"{% endif %}>{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in one.rows %}
<tr>{% for text, interval, paper, kind, best in row %}<td{% if kind != "text" %} class="number"{% endif %}>{% if best %}<b>{{ text }}</b>{% else %}{{ text }}{% endif %}{% if interval %} <span class="paper">{{ interval }}</span>{% endif %}{% if paper %} <span class="paper">{{ paper }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<ul class="notes">{% for note in one.notes %}<li>{{ note }}</li>{% endfor %}</ul>
</section>
{% endmacro %}
{% macro picture(one) %}
<figure id="fig-{{ one.name }}">
<img alt="{{ one.title }}" src="data:image/svg+xml;base64,{{ one.data }}">
<figcaption><b>{{ one.title }}.</b> {{ one.caption }}</figcaption>
</figure>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>tamnas: report</title>
<style>
:root {
  --text: #1c1f23; --muted: #5b636d; --page: #ffffff; --card: #ffffff; --line: #d9dde2; --head: #f4f6f8;
  --link: #0b5cad; --warn: #fff6e5; --warn-line: #d08a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e3e6ea; --muted: #a0a8b2; --page: #15181c; --card: #ffffff; --line: #353b43; --head: #1f242a;
    --link: #7ab8f5; --warn: #2c2413; --warn-line: #b98519;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; font-weight: 600; }
h2 { font-size: 1.4rem; margin: 3rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-weight: 600; }
h3 { font-size: 1.05rem; margin: 2rem 0 .6rem; font-weight: 600; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
.lead { color: var(--muted); margin: 0 0 1.5rem; max-width: 48rem; }
nav { font-size: .92rem; columns: 2; column-gap: 2.5rem; padding: 1rem 1.2rem; background: var(--head); border-radius: 6px; }
nav a { display: block; padding: .08rem 0; }
nav a.top { font-weight: 600; }
nav a.sub { padding-left: 1rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .38rem .7rem; text-align: left; vertical-align: top; }
td { white-space: nowrap; border-top: 1px solid var(--line); }
th { background: var(--head); font-weight: 600; min-width: 5.4rem; vertical-align: bottom; }
.wide th.number { min-width: 7.5rem; }
.prose td { white-space: normal; }
.number { text-align: right; }
.paper { color: var(--muted); font-size: .92em; white-space: nowrap; }
.notes { color: var(--muted); font-size: .84rem; margin: .6rem 0 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.2rem; margin: 0; font-size: .94rem; }
dt { font-weight: 600; }
dd { margin: 0; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 4px; padding: .7rem 1rem; font-size: .94rem; }
.warning p { margin: .2rem 0; }
.warning ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.fine { color: var(--muted); font-size: .94rem; }
figure { margin: 1.8rem 0; }
figure img { display: block; width: 100%; max-width: 56rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
figcaption { color: var(--muted); font-size: .88rem; margin-top: .5rem; max-width: 56rem; }
figcaption b { color: var(--text); font-weight: 600; }
pre { background: var(--head); border-radius: 6px; padding: .9rem 1.1rem; overflow-x: auto; font-size: .88rem; }
@media (max-width: 45rem) { nav { columns: 1; } dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { nav { display: none; } .scroll { overflow: visible; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>tamnas: report</h1>
<p class="lead">One-shot search for tiny image classifiers that resist white-box attack. All accuracies are in percent;
robust accuracy is accuracy under projected gradient descent (PGD) within the stated L-infinity radius, in fractions of the
pixel range.{% if not merged %} Everything is chosen on validation images; test images give the numbers.{% endif %}</p>
<nav>
<a class="top" href="#conclusions">The paper's conclusions</a>
{% for dataset in datasets %}
<a class="top" href="#{{ dataset.name }}">{{ dataset.name }}</a>
{% for one in dataset.tables %}<a class="sub" href="#{{ one.name }}">{{ one.title }}</a>{% endfor %}
{% for one in dataset.pictures %}<a class="sub" href="#fig-{{ one.name }}">{{ one.title }}</a>{% endfor %}
{% endfor %}
{% if paper_tables %}
<a class="top" href="#paper">The paper's tables</a>
{% for one in paper_tables %}<a class="sub" href="#{{ one.name }}">{{ one.title }}</a>{% endfor %}
{% endif %}
<a class="top" href="#space">The search space</a>
<a class="top" href="#reproduce">How to reproduce</a>
</nav>
{% if alerts %}
<div class="warning">{% for name, count, first in alerts %}<p><a href="#{{ name }}-warnings">{{ count }} on {{ name }}</a>. The first: {{ first }}</p>
{% endfor %}</div>
{% endif %}
{% for one in overview %}{{ picture(one) }}{% endfor %}
<h2 id="conclusions">The paper's conclusions</h2>
{{ table(claims, "prose") }}
{% for dataset in datasets %}
<h2 id="{{ dataset.name }}">{{ dataset.name }}</h2>
<h3>What was run</h3>
<dl>
{% for term, text in dataset.settings %}<dt>{{ term }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>
{% if dataset.headline %}
<h3>Headline numbers</h3>
<div class="scroll"><table>
<thead><tr><th>Network</th><th class="number">Parameters</th><th class="number">Clean (%)</th><th class="number">{{ dataset.key }} (%)</th></tr></thead>
<tbody>
{% for name, parameters, clean, robust in dataset.headline %}
<tr><td>{{ name }}</td><td class="number">{{ parameters }}</td><td class="number">{{ clean }}</td><td class="number">{{ robust }}</td></tr>
{% endfor %}
</tbody></table></div>
<ul class="notes"><li>In brackets: 95% Wilson intervals on n = {{ "{:,}".format(dataset.n) }} test images.</li></ul>
{% endif %}
<h3 id="{{ dataset.name }}-warnings">Warnings</h3>
{% if dataset.warnings %}
<div class="warning"><ul>{% for line in dataset.warnings %}<li>{{ line }}</li>{% endfor %}</ul></div>
{% else %}
<p class="fine">None: no accuracy under attack is above clean accuracy or rises with radius or steps, and the shortest
attack of the grid leaves at most 5 points more than the longest.</p>
{% endif %}
{% for one in dataset.tables %}{{ table(one) }}{% endfor %}
{% for one in dataset.pictures %}{{ picture(one) }}{% endfor %}
{% endfor %}
{% if paper_tables %}
<h2 id="paper">The paper's tables</h2>
{% for one in paper_tables %}{{ table(one) }}{% endfor %}
{% endif %}
<h2 id="space">The search space</h2>
{% for one in space_tables %}{{ table(one) }}{% endfor %}
<h2 id="reproduce">How to reproduce</h2>
<pre>{% for command, what in reproduce %}{{ "%-22s# %s"|format(command, what) }}
{% endfor %}</pre>
<p class="fine">The parameters are in params.yaml, resolved row by row in plan/; the code and data that each result belongs to
are in dvc.lock. The tables are also in reports/tables as Markdown, CSV and LaTeX, the figures in reports/figures as SVG and
PNG.</p>
</main>
</body>
</html>
"""
