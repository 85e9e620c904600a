"""Fine-tuning as stochastic control: what `python -m toys control` trained, on a page with figures.

`python -m figures control` reads results/control/control.json and, of `python -m toys cases`,
results/control/cases/, copies the numbers that the page shows to docs/data/control.json, and writes
docs/results/control.md and docs/images/control/*.png from those alone; `--check` tells whether the
committed page is what the committed numbers give. One module a picture, each with

    TITLE: str                      the picture's alternative text
    draw(numbers) -> Figure         the picture
    text(numbers) -> str            what the page says beside it, Markdown
"""
