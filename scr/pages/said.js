"use strict";
// What a method said about a picture, as `scr.describing.gallery.page` gives it: pieces, and a doubt for some of them.
const make = (name, text = "", className = "") => {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
};

const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

// Its text: words underlined by their doubts, differing ones marked; `onWord` is given each doubted piece and its doubt.
function saidOf(one, onWord = () => {}) {
  const said = make("p", "", "said");
  for (const [text, differs, place] of one.pieces) {
    const doubt = one.doubts[place];
    const piece = make("span", text, differs ? "differs" : "");
    if (doubt) {
      const [, score, confidence, evidence, recheck] = doubt;
      piece.classList.add("word", score === null ? "unscored" : `level-${Math.min(3, Math.floor(4 * score))}`);
      piece.title = `made up: ${number(score)}; confidence ${number(confidence)}, evidence ${number(evidence)}, recheck ${number(recheck)}`;
      onWord(piece, doubt);
    }
    said.append(piece);
  }
  if (!one.pieces.length) said.append("(empty)");
  return said;
}

// The choices among a trace's grids; none where there is no trace.
const gridChoices = (trace) => (trace?.grids ?? []).map(([rows, columns], count) => (
  new Option(`${count + 1}: ${rows} × ${columns}${count === trace.whole ? ", the whole picture" : ""}`, count)));
