"use strict";
// A trace over its picture: `look` is that of `scr.pages.veil`; a trace has the grids of a record, and bytes for its map.
function veilOver(look) {
  // Rows and columns of a grid, and the first of its patches; one patch where there is no trace.
  function placeOf(trace, grid) {
    const [rows, columns] = trace?.grids[grid] ?? [1, 1];
    let start = 0;
    for (const [height, width] of trace?.grids.slice(0, grid) ?? []) start += height * width;
    return { rows, columns, start };
  }

  // Dark where little attended to. Without a map, or where it is not wanted, the canvas is clear.
  function drawMap(canvas, trace, grid, wanted) {
    const { rows, columns, start } = placeOf(trace, grid);
    canvas.width = columns;
    canvas.height = rows;
    if (!trace?.attention || !wanted) return;
    const bytes = atob(trace.attention);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    const color = [1, 3, 5].map((place) => parseInt(look.ink.dark.slice(place, place + 2), 16));
    for (let patch = 0; patch < rows * columns; patch += 1) {
      pixels.data.set([...color, Math.round(look.opacity * (255 - bytes.charCodeAt(start + patch)))], 4 * patch);
    }
    context.putImageData(pixels, 0, 0);
  }

  // Squares for sources, dots for neighbours and a line to each; `wanted` tells which of the two.
  function drawMarks(marks, trace, grid, wanted) {
    const { rows, columns, start } = placeOf(trace, grid);
    marks.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    marks.replaceChildren();
    if (!trace) return;
    const inside = (patch) => patch >= start && patch < start + rows * columns;
    const center = (patch) => [((patch - start) % columns) + 0.5, Math.floor((patch - start) / columns) + 0.5];
    const add = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      marks.append(element);
    };
    const [outer, inner] = look.strokes;
    const { light, dark, neighbor } = look.ink;
    if (wanted.neighbors) {
      const edges = trace.neighbors.map((patch, place) => [patch, trace.sources[trace.owners[place]]]);
      const own = edges.filter(([patch]) => inside(patch));
      for (const [width, stroke] of [[outer, light], [inner, neighbor]]) {
        for (const [patch, source] of own) {
          if (!inside(source)) continue;
          const [[x1, y1], [x2, y2]] = [center(source), center(patch)];
          add("line", { x1, y1, x2, y2, stroke, "stroke-width": width });
        }
      }
      for (const [patch] of own) {
        const [cx, cy] = center(patch);
        add("circle", { cx, cy, r: look.radius, fill: neighbor, stroke: dark, "stroke-width": inner / 2 });
      }
    }
    if (wanted.sources) {
      const side = 1 - 2 * look.inset;
      for (const [width, stroke] of [[outer, light], [inner, dark]]) {
        for (const patch of trace.sources.filter(inside)) {
          const [x, y] = center(patch);
          add("rect", { x: x - side / 2, y: y - side / 2, width: side, height: side, fill: "none", stroke, "stroke-width": width });
        }
      }
    }
  }

  return { placeOf, drawMap, drawMarks };
}
