(async () => {
  const find = (name) => document.getElementById(name);
  const form = find("question").elements;
  const layers = find("layers").elements;
  const MOST_BYTES = 36 * 2 ** 20;
  let offer = null;
  let picture = null; // the file that is asked about
  let url = null; // of it, for the page
  let shown = null; // the answers
  let asking = false; // a question runs
  let veil = null;

  function say(text, isError = false) {
    find("state").textContent = text;
    find("state").classList.toggle("error", isError);
  }

  async function fetched(path, options) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("the server does not answer: is it still running?");
    }
    const value = await response.json();
    if (!response.ok) throw new Error(value.error);
    return value;
  }

  function choose(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) {
      say("the picture is too large: at most 36 MB", true);
      return;
    }
    picture = file;
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(file);
    find("hint").textContent = `${file.name || "a pasted picture"}: drop or choose another one to change it`;
    enable();
    if (!asking) say("");
  }

  function enable() {
    find("question").querySelector("button").disabled = asking || !picture;
  }

  function offered(method) {
    const line = make("div");
    const label = make("label");
    const box = make("input");
    Object.assign(box, { type: "checkbox", name: "method", value: method.name, checked: method.name === "scr" });
    label.append(box, ` ${method.name}`);
    label.title = method.summary;
    line.append(label);
    const knob = make("label", `${method.field} `, "knob");
    const input = make("input");
    Object.assign(input, { type: "number", step: "any", value: method.default ?? "", placeholder: "default" });
    input.dataset.method = method.name;
    knob.append(input);
    line.append(knob);
    return line;
  }

  const base64 = (file) => new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the picture cannot be read"));
    reader.readAsDataURL(file);
  });

  async function ask() {
    const methods = [...find("methods").querySelectorAll("[name=method]:checked")].map((box) => box.value);
    const strengths = {};
    for (const input of find("methods").querySelectorAll("[data-method]")) {
      if (methods.includes(input.dataset.method) && input.value !== "") strengths[input.dataset.method] = Number(input.value);
    }
    asking = true;
    enable();
    say("asking ...");
    const [asked, began] = [url, performance.now()];
    try {
      const question = { picture: await base64(picture), prompt: form.prompt.value, methods, strengths };
      const headers = { "Content-Type": "application/json" };
      const answer = await fetched("answer", { method: "POST", headers, body: JSON.stringify(question) });
      if (asked === url) {
        shown = answer;
        show();
        say(`answered in ${((performance.now() - began) / 1000).toFixed(1)} seconds, doubts and maps included`);
      } else {
        say("answered about the picture before; ask again");
      }
    } catch (error) {
      say(asked === url ? error.message : `about the picture before: ${error.message}`, true);
    }
    asking = false;
    enable();
  }

  function show() {
    const [photo] = shown.photos;
    find("answers").hidden = false;
    find("large").src = url; // a picture that this browser cannot show leaves the map alone
    veil = veilOver(shown.look);
    find("texts").replaceChildren(...photo.said.map((one, count) => article(one, shown.methods[count])));
    find("calibrated").textContent = shown.calibration === null
      ? "Dotted words have no score: no calibration was given for this model. Highlighted: words in which texts differ."
      : `Underlined: how likely a word is made up, by the calibration ${shown.calibration}. Highlighted: words in which texts differ.`;
    const traced = photo.said.flatMap((one, count) => (one.trace ? [count] : []));
    layers.method.replaceChildren(...traced.map((count) => new Option(shown.methods[count], count)));
    layers.method.value = String(traced.at(-1) ?? "");
    find("layers").hidden = traced.length === 0;
    showGrids();
  }

  function article(one, method) {
    const element = make("article");
    element.append(make("h2", method === "none" ? "the model as it is" : method));
    if (one.error) {
      element.append(make("p", `no answer: ${one.error}`, "said"));
      return element;
    }
    const facts = [`${one.milliseconds} ms`];
    if (one.trace) facts.push(`entropy of its attention ${number(one.trace.entropy)} nats`);
    element.append(saidOf(one), make("p", facts.join(", "), "note"));
    return element;
  }

  const traceOf = () => (layers.method.value === "" ? null : shown.photos[0].said[Number(layers.method.value)].trace);

  function showGrids() {
    const trace = traceOf();
    find("grid-choice").hidden = !trace || trace.grids.length < 2;
    layers.grid.replaceChildren(...gridChoices(trace));
    layers.grid.value = String(trace?.whole ?? 0);
    draw();
  }

  function draw() {
    const trace = traceOf();
    const grid = Number(layers.grid.value || 0);
    const wanted = { attention: layers.attention.checked, sources: layers.sources.checked, neighbors: layers.neighbors.checked };
    const veiled = trace && Object.values(wanted).some(Boolean);
    const whole = !veiled || trace.whole === grid; // where a tile lies in the picture is not known: it stands alone
    const { rows, columns } = veil.placeOf(trace, grid);
    const [wide, high] = whole ? shown.photos[0].size : [columns, rows];
    find("stage").style.aspectRatio = `${wide} / ${high}`;
    find("large").hidden = !whole;
    veil.drawMap(find("map"), trace, grid, wanted.attention);
    veil.drawMarks(find("marks"), trace, grid, wanted);
    const said = whole ? [] : ["a tile, beside the picture"];
    if (veiled) said.push(`${rows} × ${columns} patches: the darker, the less attended to`);
    if (veiled && (wanted.sources || wanted.neighbors)) {
      said.push(trace.sources.length ? `sources: ${trace.sources.length}, neighbours: ${trace.neighbors.length}` : "no sources: this method moves nothing");
    }
    find("legend").textContent = said.join("; ");
    find("stage").setAttribute("aria-label", ["the picture", ...said].join(": "));
  }

  find("question").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.picture.addEventListener("change", () => choose(form.picture.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      find("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") choose(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
  find("layers").addEventListener("input", (event) => (event.target === layers.method ? showGrids() : draw()));

  try {
    offer = await fetched("offer");
    find("model").textContent = offer.model;
    form.prompt.value = offer.prompt;
    find("methods").append(...offer.methods.map(offered));
  } catch (error) {
    say(error.message, true);
  }
})();
