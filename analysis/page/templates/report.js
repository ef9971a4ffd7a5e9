(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const { index, labels, images, look, chunkSize, folder } = data;
  const total = index.outcome.length;
  const SIGNS = { fixed: "✓", broken: "✗", traded: "⇄", changed: "~", ungraded: "?", unchanged: "=", alone: "·" };
  const PAGE = 48;
  const chunks = new Map([[0, data.first]]);
  const waiting = new Map();
  const find = (name) => document.getElementById(name);
  const form = find("filters");
  const layers = find("layers").elements;
  const veil = veilOver(look);
  let list = [];
  let listed = 0;
  let current = null;

  const make = (name, text = "", className = "") => {
    const element = document.createElement(name);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const label = (kind, sample) => labels[kind][index[kind][sample]];
  const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  // A page from disk may load scripts but not fetch files: each chunk is a script that calls this.
  window.reportChunk = (count, samples) => chunks.set(count, samples);

  function load(sample) {
    const count = Math.floor(sample / chunkSize);
    if (chunks.has(count)) return Promise.resolve(chunks.get(count)[sample % chunkSize]);
    if (!waiting.has(count)) {
      waiting.set(count, new Promise((resolve) => {
        const script = document.createElement("script");
        script.src = `${folder}/chunk-${String(count).padStart(4, "0")}.js`;
        script.onload = resolve;
        script.onerror = () => {
          waiting.delete(count);
          script.remove();
          resolve();
        };
        document.head.append(script);
      }));
    }
    return waiting.get(count).then(() => chunks.get(count)?.[sample % chunkSize] ?? null);
  }

  function matches(sample) {
    for (const kind of ["outcome", "row", "task", "model"]) {
      const wanted = form.elements[kind].value;
      if (wanted !== "" && Number(wanted) !== index[kind][sample]) return false;
    }
    const entropy = index.entropy[sample];
    const [low, high] = ["low", "high"].map((name) => form.elements[name].valueAsNumber);
    if (!Number.isNaN(low) && (entropy === null || entropy < low)) return false;
    return Number.isNaN(high) || (entropy !== null && entropy <= high);
  }

  function refresh() {
    list = [];
    for (let sample = 0; sample < total; sample += 1) if (matches(sample)) list.push(sample);
    find("gallery").replaceChildren();
    listed = 0;
    showMore();
    find("count").textContent = list.length === 0
      ? "No sample is like that. Widen the filter."
      : `${list.length} of ${total} samples. Arrow keys ← and → go through them.`;
    if (list.length === 0) {
      current = null;
      find("detail").hidden = true;
    } else {
      show(list.includes(current) ? current : list[0]);
    }
  }

  function showMore() {
    for (const sample of list.slice(listed, listed + PAGE)) find("gallery").append(card(sample));
    listed = Math.min(list.length, listed + PAGE);
    find("more").hidden = listed >= list.length;
    markCurrent();
  }

  function picture(sample) {
    const place = index.image[sample];
    return place === null ? null : images[place];
  }

  function card(sample) {
    const item = document.createElement("li");
    const button = make("button");
    button.type = "button";
    button.dataset.sample = sample;
    const image = picture(sample);
    if (image?.file) {
      const thumbnail = make("img", "", "thumbnail");
      thumbnail.alt = "";
      thumbnail.loading = "lazy";
      thumbnail.src = image.thumbnail ?? `${folder}/images/${image.file}`;
      button.append(thumbnail);
    } else {
      button.append(make("span", "", "thumbnail"));
    }
    const outcome = label("outcome", sample);
    button.append(make("span", `${SIGNS[outcome]} ${outcome}`, outcome));
    const text = make("span", label("row", sample));
    button.append(text);
    load(sample).then((entry) => {
      if (entry) button.append(make("span", entry.prompt.length > 60 ? `${entry.prompt.slice(0, 57)}…` : entry.prompt));
    });
    button.addEventListener("click", () => {
      show(sample);
      find("detail").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    return item;
  }

  function markCurrent() {
    for (const button of find("gallery").querySelectorAll("button")) {
      if (Number(button.dataset.sample) === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  function show(sample) {
    current = sample;
    markCurrent();
    load(sample).then((entry) => {
      if (current !== sample) return;
      find("detail").hidden = false;
      const position = list.indexOf(sample);
      find("previous").disabled = position <= 0;
      find("next").disabled = position >= list.length - 1;
      find("place").textContent = `sample ${position + 1} of ${list.length}`;
      if (!entry) {
        find("place").textContent += `: not there. Copy the folder “${folder}” along with this page.`;
        return;
      }
      showText(sample, entry);
      showPicture(sample, entry);
    });
  }

  function showText(sample, entry) {
    const outcome = label("outcome", sample);
    find("outcome").textContent = `${SIGNS[outcome]} ${outcome}`;
    find("outcome").className = `chip ${outcome}`;
    find("prompt").textContent = entry.prompt;
    find("row").textContent = label("row", sample);
    for (const name of ["before", "after"]) {
      const side = entry[name];
      const output = find(name);
      output.replaceChildren();
      if (!side) output.append("– not run –");
      else if (side.error) output.append(`no output: ${side.error}`);
      else for (const [text, marked] of side.pieces) output.append(...(marked ? hallucinated(text) : [text]));
      const facts = [];
      if (side?.outcome) facts.push({ tp: "right", tn: "right", fp: "hallucinated", fn: "missed" }[side.outcome]);
      if (side && side.margin !== null) facts.push(`margin of yes ${number(side.margin)}`);
      find(`${name}-facts`).textContent = facts.join(", ");
    }
    const facts = {
      expected: entry.target,
      entropy: index.entropy[sample] === null
        ? "not recorded"
        : `${number(index.entropy[sample])} nats${entry.normalized === null ? "" : `, ${number(entry.normalized)} of log N`}`,
      task: label("task", sample),
      model: label("model", sample),
      picture: picture(sample)?.name ?? "none",
      id: entry.id,
    };
    find("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(make("dt", name), make("dd", value));
      return pair;
    }));
  }

  function hallucinated(text) {
    const mark = make("mark", text);
    return [mark, make("span", " (hallucinated)", "hidden")];
  }

  function showPicture(sample, entry) {
    const trace = entry.trace;
    const choice = layers.grid;
    choice.replaceChildren();
    find("grid-choice").hidden = !trace || trace.grids.length < 2;
    (trace?.grids ?? []).forEach(([height, width], count) => {
      const whole = count === trace.whole ? ", the whole picture" : "";
      choice.add(new Option(`${count + 1}: ${height} × ${width}${whole}`, count));
    });
    choice.value = String(trace?.whole ?? 0);
    draw(sample, entry);
  }

  function draw(sample, entry) {
    const trace = entry.trace;
    const image = picture(sample);
    const grid = Number(layers.grid.value || 0);
    const over = !trace || trace.whole === grid;
    const shown = Boolean(image?.file) && over;
    const { rows, columns } = veil.placeOf(trace, grid);
    const stage = find("stage");
    const large = find("large");
    stage.style.aspectRatio = shown ? `${image.size[0]} / ${image.size[1]}` : `${columns} / ${rows}`;
    large.hidden = !shown;
    if (shown) {
      large.onerror = () => {
        large.onerror = null;
        if (image.thumbnail) large.src = image.thumbnail;
      };
      large.src = `${folder}/images/${image.file}`;
    } else {
      large.removeAttribute("src");
    }
    veil.drawMap(find("map"), trace, grid, layers.attention.checked);
    veil.drawMarks(find("marks"), trace, grid, { sources: layers.sources.checked, neighbors: layers.neighbors.checked });
    const said = [];
    if (!image?.file) said.push("no picture at hand");
    else if (!over) said.push("a tile: where it lies in the picture is not recorded");
    if (!trace) said.push("no trace recorded");
    else {
      said.push(`${rows} × ${columns} patches`);
      if (trace.attention) {
        const patches = trace.grids.reduce((sum, [height, width]) => sum + height * width, 0);
        said.push(`the strongest has ${number(100 * trace.most, 1)} % of the attention, ${number(trace.most * patches, 1)} times an equal share`);
      } else said.push("no attention map recorded");
      said.push(trace.sources.length ? `${trace.sources.length} sources, ${trace.neighbors.length} neighbours` : "no sources: the method does not redistribute");
      if (shown && Math.abs(Math.log((image.size[0] / image.size[1]) / (columns / rows))) > 0.15) {
        said.push("the grid has another shape than the picture, which the model saw cropped or stretched");
      }
    }
    find("legend").textContent = `${said.join("; ")}.`;
    stage.setAttribute("aria-label", `${image?.name ?? "no picture"}: ${said.join("; ")}`);
  }

  function step(by) {
    const position = list.indexOf(current) + by;
    if (current === null || position < 0 || position >= list.length) return;
    while (position >= listed && listed < list.length) showMore();
    show(list[position]);
  }

  for (const event of ["input", "change"]) form.addEventListener(event, refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  find("more").addEventListener("click", showMore);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("layers").addEventListener("input", () => {
    const sample = current;
    if (sample !== null) load(sample).then((entry) => entry && draw(sample, entry));
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    // Where arrows have a meaning already they keep it: text fields, selects, tables that scroll.
    if (!by || event.target.closest?.("input:not([type=checkbox]), select, textarea, .scroll")) return;
    event.preventDefault();
    step(by);
  });

  // The list of sections marks the one that is read: the last whose head is above the upper third of the window.
  const links = [...document.querySelectorAll("nav a")];
  function markSection() {
    const place = window.innerHeight / 3;
    const above = links.filter((link) => find(link.hash.slice(1)).getBoundingClientRect().top <= place);
    for (const link of links) {
      if (link === (above[above.length - 1] ?? links[0])) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }
  document.addEventListener("scroll", markSection, { passive: true });
  markSection();

  find("browser").hidden = total === 0;
  if (total > 0) refresh();
})();
