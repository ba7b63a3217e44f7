"use strict";
// Sends a photograph to /predict and shows the answer. Texts are set as text, never as HTML.

const at = (id) => document.getElementById(id);
let model = null;
let running = null; // AbortController of the request that runs
let shownAddress = null;

function element(kind, className, text) {
  const one = document.createElement(kind);
  if (className) one.className = className;
  if (text !== undefined) one.textContent = text;
  return one;
}

function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  if (share < 1 && share >= 0.9995) return "> 99.9 %";
  return (100 * share).toFixed(1) + " %";
}

function bar(share, className, label) {
  const row = element("div", "bar " + className);
  const track = element("div", "track");
  const fill = element("div", "fill");
  fill.style.width = 100 * Math.min(1, Math.max(0, share)) + "%";
  track.append(fill);
  row.setAttribute("role", "img");
  row.setAttribute("aria-label", label + " " + percent(share));
  row.title = label;
  row.append(track, element("span", "", percent(share)));
  return row;
}

function tile(name) {
  const examples = model.examples;
  const number = examples ? examples.classes.indexOf(name) : -1;
  if (number < 0) return null;
  const one = element("div", "tile");
  one.setAttribute("role", "img");
  one.setAttribute("aria-label", "training image of " + name);
  const rows = Math.ceil(examples.classes.length / examples.columns);
  const x = number % examples.columns;
  const y = Math.floor(number / examples.columns);
  const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0) + "%";
  one.style.backgroundImage = `url("${examples.image}")`;
  one.style.backgroundSize = `${100 * examples.columns}% ${100 * rows}%`;
  one.style.backgroundPosition = `${share(x, examples.columns)} ${share(y, rows)}`;
  return one;
}

function showPath(answer) {
  const fine = answer.levels[0].level;
  const rows = answer.levels.map((level, number) => {
    const row = element("li");
    row.append(element("div", "level", level.level), element("div", "class", level.predicted));
    if (level.probability !== null && level.probability !== undefined) {
      row.append(bar(level.probability, "own", "classifier of " + level.level));
    }
    if (number > 0) row.append(bar(level.from_fine, "from", "sum over " + fine));
    return row;
  });
  at("path").replaceChildren(...rows.reverse());
  const legend = [element("span", "own", "the level's own classifier")];
  if (answer.levels.length > 1) {
    legend.push(element("span", "from", `from ${fine}: sum of its classes below`));
  }
  at("legend").replaceChildren(...legend);
}

function showDisagreement(answer) {
  const others = answer.levels.filter((level) => level.own && level.own !== level.predicted);
  at("disagree").hidden = answer.agree !== false && others.length === 0;
  const found = others.map((level) => `the classifier of ${level.level} prefers ${level.own}`);
  const what =
    answer.agree === false
      ? "The levels' classifiers disagree"
      : "The decision differs from what the classifiers prefer";
  at("disagree").textContent = [what, found.join("; ")].filter(Boolean).join(": ") + ".";
}

function showBest(answer) {
  const rows = answer.best.map((one) => {
    const row = element("li");
    const words = element("div", "words");
    words.append(element("div", "name", one.path[0]));
    if (one.path.length > 1) words.append(element("div", "up", one.path.slice(1).join(" · ")));
    words.append(bar(one.probability, "own", "classifier of " + answer.levels[0].level));
    const picture = tile(one.path[0]);
    row.append(...(picture ? [picture, words] : [words]));
    return row;
  });
  at("others").textContent = model.examples
    ? "Best candidates, each with a training image"
    : "Best candidates";
  at("best").replaceChildren(...rows);
}

function state(name, text) {
  for (const id of ["status", "error", "result"]) at(id).hidden = id !== name;
  if (text !== undefined) at(name).textContent = text;
  document.body.dataset.state = name; // for programs that look at the page
}

async function asked(file, signal) {
  const form = new FormData();
  form.append("photograph", file, file.name || "photograph");
  let response;
  try {
    response = await fetch("/predict", { method: "POST", body: form, signal });
  } catch (error) {
    if (signal.aborted) return null;
    throw new Error("The server does not answer. Is it still running?");
  }
  let answer;
  try {
    answer = await response.json();
  } catch (error) {
    if (signal.aborted) return null;
    throw new Error(`The server answered with status ${response.status}.`);
  }
  if (!response.ok) throw new Error(sentence(answer.error));
  return answer;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");
}

function show(file) {
  if (shownAddress) URL.revokeObjectURL(shownAddress);
  shownAddress = URL.createObjectURL(file);
  at("shown").onload = () => (at("shown").hidden = false);
  at("shown").onerror = () => (at("shown").hidden = true);
  at("shown").src = shownAddress;
  at("shown").alt = "the photograph";
  at("name").textContent = file.name || "";
}

async function recognize(file) {
  if (running) running.abort();
  const mine = (running = new AbortController());
  show(file);
  if (file.size > model.max_upload) {
    const most = (model.max_upload / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 2 });
    state("error", `The photograph is larger than ${most} MB.`);
    return;
  }
  state("status", "Recognizing …");
  try {
    const answer = await asked(file, mine.signal);
    if (answer === null || mine !== running) return;
    showPath(answer);
    showDisagreement(answer);
    showBest(answer);
    state("result");
    // On a phone, the answer is below the photograph.
    if (at("answer").getBoundingClientRect().top > window.innerHeight / 2) {
      at("answer").scrollIntoView({ behavior: "smooth", block: "start" });
    }
  } catch (error) {
    if (mine === running) state("error", error.message);
  }
}

function first(files) {
  if (files && files.length) recognize(files[0]);
}

async function start() {
  try {
    const response = await fetch("/model");
    if (!response.ok) throw new Error();
    model = await response.json();
  } catch (error) {
    state("error", "The server does not answer. Is it still running?");
    return;
  }
  document.title = model.title;
  at("title").textContent = model.title;
  at("levels").textContent = model.levels
    .map((level) => `${level.classes} × ${level.name}`)
    .reverse()
    .join(" › ");
  state("status", "The answer appears here.");
  for (const id of ["choose", "take"]) {
    at(id).addEventListener("change", (event) => {
      first(event.target.files);
    });
    // The same file can be chosen again.
    at(id).addEventListener("click", (event) => (event.target.value = ""));
  }
  const drop = at("drop");
  let depth = 0; // of elements that the pointer is over
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) drop.classList.remove("over");
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    drop.classList.remove("over");
    first(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => first(event.clipboardData.files));
}

start();
