(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const { photos, methods } = data;
  const find = (name) => document.getElementById(name);
  const veil = veilOver(data.look);
  const form = find("filters").elements;
  const layers = find("layers").elements;
  const DOUBTFUL = 0.5;
  const PAGE = 60;
  const KEY = `scr-vlm gallery ${data.id}`;
  const calibrated = data.calibration !== null;
  let marks = {};
  let keeps = true;
  let undone = []; // what was marked, oldest first: [photo, object, what it was before]
  let list = [];
  let listed = 0;
  let current = null;
  let asked = null;

  const texts = (photo) => photo.said.filter((one) => one && !one.error);

  // A word without a score is doubtful where the model, asked again, says no.
  const isDoubtful = ([, score, , , recheck]) => (score === null ? recheck !== null && recheck < 0 : score >= DOUBTFUL);

  // Names of the objects that are marked in a photo: those of the list, where there are any, and nouns if wanted.
  function objects(photo) {
    const some = photo.objects.filter(([, , isListed]) => isListed || find("nouns").checked);
    return some.map(([, name]) => name);
  }

  function mark(photo, name) {
    return Object.hasOwn(marks, photo.key) && Object.hasOwn(marks[photo.key], name) ? marks[photo.key][name] : undefined;
  }

  const toMark = (photo) => objects(photo).filter((name) => mark(photo, name) === undefined);

  const tests = {
    doubtful: (photo) => texts(photo).some((one) => one.doubts.some(isDoubtful)),
    disagree: (photo) => {
      const named = texts(photo).map((one) => new Set(one.doubts.map(([place]) => place)));
      return named.some((one) => photo.objects.some((_, place) => one.has(place) !== named[0].has(place)));
    },
    unmarked: (photo) => toMark(photo).length > 0,
    failed: (photo) => photo.said.some((one) => one?.error),
  };

  function readMarks() {
    if (!keeps) return;
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
      if (kept && typeof kept === "object") marks = kept;
    } catch {
      keeps = false;
    }
  }

  function keepMarks() {
    try {
      localStorage.setItem(KEY, JSON.stringify(marks));
    } catch {
      keeps = false;
    }
    showKept();
  }

  function showKept() {
    let done = 0;
    let all = 0;
    for (const photo of photos) {
      all += objects(photo).length;
      done += objects(photo).length - toMark(photo).length;
    }
    find("kept").textContent = `${done} of ${all} objects marked. ${keeps
      ? "Marks stay in this browser."
      : "This browser keeps nothing for a page from disk: save the file before you close it."}`;
    find("save").disabled = Object.keys(marks).length === 0;
  }

  // Change one mark, undefined for none, and leave all others as other tabs of this page may have made them since;
  // what it was before.
  function change(photo, name, value) {
    readMarks();
    const before = mark(photo, name);
    const own = Object.entries(Object.hasOwn(marks, photo.key) ? marks[photo.key] : {}).filter(([one]) => one !== name);
    if (value !== undefined) own.push([name, value]);
    const others = Object.entries(marks).filter(([key]) => key !== photo.key);
    // A name such as __proto__ is a name here.
    marks = Object.fromEntries(own.length ? [...others, [photo.key, Object.fromEntries(own)]] : others);
    keepMarks();
    return before;
  }

  function setMark(value) {
    const photo = photos[current];
    if (current === null || asked === null) return;
    undone.push([current, asked, change(photo, asked, value)]);
    const left = toMark(photo);
    const names = objects(photo);
    const later = names.slice(names.indexOf(asked) + 1).find((name) => left.includes(name)) ?? left[0];
    if (later !== undefined) ask(later);
    else step(1, (place) => toMark(photos[place]).length > 0) || showObjects();
  }

  function undo() {
    const last = undone.pop();
    if (!last) return;
    const [place, name, before] = last;
    change(photos[place], name, before);
    show(place, name);
  }

  function save() {
    const content = { gallery: data.id, model: data.model, prompt: data.prompt, marks };
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = "marks.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }

  function refresh() {
    const wanted = Object.keys(tests).filter((name) => form[name].checked);
    list = photos.flatMap((photo, place) => (wanted.every((name) => tests[name](photo)) ? [place] : []));
    find("count").textContent = list.length ? `${list.length} of ${photos.length} photos` : "No photo is like that.";
    find("gallery").replaceChildren();
    listed = 0;
    showMore();
    find("detail").hidden = list.length === 0;
    if (list.length) show(list.includes(current) ? current : list[0]);
    else current = null;
  }

  function showMore() {
    for (const place of list.slice(listed, listed + PAGE)) find("gallery").append(card(place));
    listed = Math.min(list.length, listed + PAGE);
    find("more").hidden = listed >= list.length;
    markCurrent();
  }

  function card(place) {
    const photo = photos[place];
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.dataset.place = place;
    const thumbnail = make(photo.file ? "img" : "span", "", "thumbnail");
    if (photo.file) Object.assign(thumbnail, { alt: "", loading: "lazy", src: photo.file });
    button.append(thumbnail, make("span", photo.name));
    button.addEventListener("click", () => {
      show(place);
      find("detail").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    return item;
  }

  function markCurrent() {
    for (const button of find("gallery").querySelectorAll("button")) {
      if (Number(button.dataset.place) === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  function show(place, object) {
    const photo = photos[place];
    current = place;
    markCurrent();
    const position = list.indexOf(place);
    find("previous").disabled = position <= 0;
    find("next").disabled = position < 0 || position >= list.length - 1;
    find("place").textContent = `${photo.name} · ${position + 1} of ${list.length}`;
    find("texts").replaceChildren(...photo.said.map((one, count) => article(photo, one, methods[count])));
    find("nouns-choice").hidden = !photos.some((one) => one.objects.some(([, , isListed]) => !isListed));
    ask(object ?? toMark(photo)[0] ?? objects(photo)[0] ?? null);
    showPicture(photo);
  }

  function article(photo, one, method) {
    const element = make("article");
    element.append(make("h2", method));
    if (!one || one.error) {
      element.append(make("p", one ? `not described: ${one.error}` : "– not asked –", "said"));
      return element;
    }
    const said = saidOf(one, (piece, doubt) => {
      const name = photo.objects[doubt[0]][1];
      piece.dataset.object = name;
      piece.addEventListener("click", () => ask(name));
      if (isDoubtful(doubt)) piece.append(make("span", " (doubtful)", "hidden"));
    });
    const facts = make("details");
    facts.append(make("summary", `${one.milliseconds} ms, ${one.doubts.length} words`), measures(photo, one));
    element.append(said, facts);
    return element;
  }

  function measures(photo, one) {
    const table = make("table");
    const row = (cells, kind) => {
      const line = make("tr");
      line.append(...cells.map((cell) => make(kind, cell)));
      return line;
    };
    table.append(row(["", "made up", "confidence", "evidence", "recheck"], "th"));
    for (const [object, ...values] of one.doubts) {
      table.append(row([photo.objects[object][0], ...values.map((value) => number(value))], "td"));
    }
    return table;
  }

  function ask(name) {
    asked = name;
    find("ask").hidden = name === null;
    showObjects();
  }

  function showObjects() {
    const photo = photos[current];
    const shown = new Map(photo.objects.map(([text, name]) => [name, text]));
    find("asked").textContent = shown.get(asked) ?? "";
    find("back").disabled = undone.length === 0;
    find("objects").replaceChildren(...objects(photo).map((name) => {
      const item = make("li");
      const value = mark(photo, name);
      const state = value === undefined ? "" : value ? "yes" : "no";
      const button = make("button", `${{ yes: "✓ ", no: "✗ " }[state] ?? ""}${shown.get(name)}`, state);
      button.type = "button";
      button.append(make("span", { yes: ", there", no: ", not there" }[state] ?? ", not marked", "hidden"));
      if (name === asked) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => ask(name));
      item.append(button);
      return item;
    }));
    for (const word of find("texts").querySelectorAll(".word")) word.classList.toggle("asked", word.dataset.object === asked);
    showKept();
  }

  function showPicture(photo) {
    const traced = photo.said.flatMap((one, count) => (one?.trace ? [count] : []));
    const chosen = Number(layers.method.value || -1);
    layers.method.replaceChildren(...traced.map((count) => new Option(methods[count], count)));
    layers.method.value = String(traced.includes(chosen) ? chosen : traced.at(-1) ?? "");
    find("layers").hidden = traced.length === 0;
    showGrids(photo);
  }

  function showGrids(photo) {
    const trace = photo.said[Number(layers.method.value)]?.trace ?? null;
    find("grid-choice").hidden = !trace || trace.grids.length < 2;
    layers.grid.replaceChildren(...gridChoices(trace));
    layers.grid.value = String(trace?.whole ?? 0);
    draw(photo);
  }

  function draw(photo) {
    const trace = (layers.method.value !== "" && photo.said[Number(layers.method.value)]?.trace) || null;
    const grid = Number(layers.grid.value || 0);
    const wanted = { attention: layers.attention.checked, sources: layers.sources.checked, neighbors: layers.neighbors.checked };
    const veiled = trace && Object.values(wanted).some(Boolean);
    // Where a tile lies in the picture is not recorded: it stands on a plain ground.
    const shown = Boolean(photo.file) && (!veiled || trace.whole === grid);
    const { rows, columns } = veil.placeOf(trace, grid);
    const [wide, high] = photo.file && shown ? photo.size : veiled ? [columns, rows] : [4, 3];
    const stage = find("stage");
    stage.style.aspectRatio = `${wide} / ${high}`;
    stage.style.maxWidth = `calc(75vh * ${wide} / ${high})`;
    const large = find("large");
    large.hidden = !shown;
    if (shown) large.src = photo.file;
    else large.removeAttribute("src");
    veil.drawMap(find("map"), trace, grid, wanted.attention);
    veil.drawMarks(find("marks"), trace, grid, wanted);
    const said = [];
    if (!photo.file) said.push("no picture to show");
    else if (!shown) said.push("a tile: where it lies in the picture is not recorded");
    if (veiled) {
      said.push(`${rows} × ${columns} patches: the darker, the less attended to; entropy ${number(trace.entropy)} nats`);
      if (wanted.sources || wanted.neighbors) {
        said.push(trace.sources.length ? `sources: ${trace.sources.length}, neighbours: ${trace.neighbors.length}` : "no sources: this method moves nothing");
      }
    }
    find("legend").textContent = said.join("; ");
    stage.setAttribute("aria-label", [photo.name, ...said].join(": "));
  }

  // To the next photo of the list, in a direction, that fits; whether there is one.
  function step(by, fits = () => true) {
    for (let position = list.indexOf(current) + by; position >= 0 && position < list.length; position += by) {
      if (!fits(list[position])) continue;
      while (position >= listed && listed < list.length) showMore();
      show(list[position]);
      return true;
    }
    return false;
  }

  function stepObject(by) {
    const names = objects(photos[current]);
    if (names.length) ask(names[(names.indexOf(asked) + by + names.length) % names.length]);
  }

  const KEYS = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    j: () => stepObject(1),
    k: () => stepObject(-1),
    y: () => setMark(true),
    n: () => setMark(false),
    u: undo,
    a: () => layers.attention.click(),
    s: () => {
      layers.neighbors.checked = layers.sources.checked;
      layers.neighbors.click();
      layers.sources.click();
    },
  };

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented || current === null) return;
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    // Where keys have a meaning already they keep it.
    if (!act || event.target.closest?.("input:not([type=checkbox]), select, textarea")) return;
    event.preventDefault();
    act();
  });
  // Another tab of this page has marked something.
  window.addEventListener("storage", (event) => {
    if (event.key !== KEY && event.key !== null) return;
    readMarks();
    if (current === null) showKept();
    else showObjects();
  });
  find("filters").addEventListener("input", refresh);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("layers").addEventListener("input", (event) => {
    if (current === null) return;
    if (event.target === layers.method) showGrids(photos[current]);
    else draw(photos[current]);
  });
  find("nouns").addEventListener("input", () => current !== null && show(current));
  find("there").addEventListener("click", () => setMark(true));
  find("absent").addEventListener("click", () => setMark(false));
  find("back").addEventListener("click", undo);
  find("save").addEventListener("click", save);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("more").addEventListener("click", showMore);

  find("prompt").textContent = data.prompt;
  find("calibrated").textContent = calibrated
    ? `How likely words are made up: by the calibration ${data.calibration}. Doubtful is ${DOUBTFUL} or more; of nouns that it does not know (dotted), what the model, asked again, denies.`
    : "No calibration was given for this model: words have no score (dotted), and are doubtful where the model, asked again, says no.";
  readMarks();
  document.querySelector("main").hidden = photos.length === 0;
  if (photos.length) refresh();
  showKept();
})();
