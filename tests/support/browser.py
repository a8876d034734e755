"""A headless Chromium that opens a page at a width and tells what a person would see of it.

The page is put into a frame of that width, since Chromium has no window as narrow as a phone, and
a script outside of it looks in: errors, overflow, figures, contrast, and whether tables sort.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=8000",
)  # fmt: skip
LOOK = """
const frame = document.querySelector('iframe');
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
frame.addEventListener('load', () => {
  const view = frame.contentWindow, page = frame.contentDocument, found = {errors: view.errors};
  const root = page.documentElement;
  found.overflow = root.scrollWidth - root.clientWidth;
  found.beyond = [...page.querySelectorAll('body *')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width && box.right > root.clientWidth + 1 && !one.closest('.scroll, pre, svg');
  }).map((one) => one.tagName + '.' + one.className);
  const figures = [...page.querySelectorAll('svg.figure')];
  found.figures = figures.length;
  found.undrawn = figures.filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width < 200 || box.height < 60 || !one.querySelector('path, use, rect');
  }).length;
  found.images = [...page.images].filter((one) => !one.complete || !one.naturalWidth).length;
  const ground = light(numbers(view.getComputedStyle(root).backgroundColor));
  const answer = page.querySelector('.verdict');
  found.answer = answer ? answer.getBoundingClientRect().bottom : null;
  found.scrolls = [...page.querySelectorAll('section > .scroll')]
    .map((one) => one.scrollWidth - one.clientWidth).filter((beyond) => beyond > 0);
  found.contrast = {};
  for (const one of page.querySelectorAll('body *')) {
    const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || one.closest('script, style')) continue;
    const style = view.getComputedStyle(one);
    const colour = light(numbers(one.closest('svg') ? style.fill : style.color));
    const ratio = (Math.max(colour, ground) + 0.05) / (Math.min(colour, ground) + 0.05);
    if (ratio < 4.5) found.contrast[one.tagName + ' ' + one.textContent.slice(0, 30)] = ratio;
  }
  const tables = [...page.querySelectorAll('table')];
  const sortable = tables.filter((one) => one.querySelector('th button'));
  found.sorted = sortable.every((table) =>
    [...table.tHead.rows[0].cells].every((heading, column) => {
      const value = (row) => Number(row.cells[column].dataset.value);
      const rows = () => [...table.tBodies[0].rows];
      heading.querySelector('button').click();
      const first = rows().map(value), state = heading.getAttribute('aria-sort');
      heading.querySelector('button').click();
      const second = rows().map(value);
      if (column === 0) return state === 'ascending';
      const down = (list) => list.every((v, i) => !i || list[i - 1] >= v);
      return state === 'descending' && down(first) && down(second.reverse());
    }));
  const told = document.createElement('pre');
  told.id = 'told';
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
"""
WATCH = "<script>window.errors=[];window.addEventListener('error',e=>errors.push(e.message));"
WATCH += "window.addEventListener('securitypolicyviolation',e=>errors.push(e.blockedURI));</script>"


def looked_at(page: Path, folder: Path, *, width: int, theme: str) -> dict[str, Any]:
    """Open a page and tell what was seen.

    Args:
        page: the file.
        folder: for the frame around it and the browser's profile.
        width: of the frame, in pixels.
        theme: ``light`` or ``dark``.
    """
    text = page.read_text().replace("<html", f'<html data-theme="{theme}"', 1)
    text = text.replace("<head>", f"<head>{WATCH}", 1)
    outer = folder / f"frame-{width}-{theme}.html"
    frame = f'<iframe width="{width}" height="1000" style="border:0" srcdoc="{html.escape(text)}">'
    # The frame's text is parsed only when it is set, so the listener stands first.
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><body>{frame}</iframe><script>{LOOK}</script>"
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, check=True)
    told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(told.group(1)))
    return found
