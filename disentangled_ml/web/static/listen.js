import { ask, audioAddress, catalogue, complain, post, save } from "./api.js";
import { by, el } from "./dom.js";

const KEPT = "rater"; // in this browser, so that a closed page goes on where it was
const players = ["reference", "left", "right"].map(by);
let rater = null;
let turn = null;
let answered = []; // numbers of the questions answered in this visit, the last one last
const heard = new Set();

const show = (id) => { for (const part of ["who", "turn", "end"]) by(part).hidden = part !== id; };

function source(excerpt, seconds) {
  const fragment = excerpt.start === null ? "" : `#t=${excerpt.start},${excerpt.start + seconds}`;
  return `${audioAddress(excerpt.track)}${fragment}`;
}

async function next(number = null) {
  const wanted = { rater, ...(number === null ? {} : { number }) };
  try {
    turn = await ask(`api/listen/turn?${new URLSearchParams(wanted)}`);
  } catch (error) {
    show(rater === null || turn === null ? "who" : "turn");
    return complain(error);
  }
  complain(null);
  heard.clear();
  const end = turn.number === null;
  show(end ? "end" : "turn");
  for (const id of ["back", "back-end"]) by(id).hidden = !answered.length;
  if (end) {
    by("thanks").textContent = `Thank you, ${rater}. All ${turn.total} questions are answered.`;
    return by("thanks").focus();
  }
  by("progress").max = turn.total;
  by("progress").value = turn.done;
  by("count").textContent = `${turn.done} of ${turn.total} answered, as ${rater}`;
  by("question").textContent = `Which is more similar to the reference ${turn.asked}?`;
  for (const player of players) player.src = source(turn[player.id], turn.chunk_seconds);
  by("hint").textContent = turn.chosen === null ? "Listen to all three, then choose." : `Your answer so far: ${{ left: "A", right: "B" }[turn.chosen] ?? turn.chosen}.`;
  enable();
  by("question").focus();
}

function enable() {
  const ready = players.every((player) => heard.has(player.id)) || turn.chosen !== null;
  for (const id of ["choose-left", "choose-right"]) by(id).setAttribute("aria-disabled", String(!ready));
  return ready;
}

async function answer(chosen) {
  if (chosen !== "cannot tell" && !enable()) {
    by("hint").textContent = "Listen to all three first; if one does not sound, say that you cannot tell.";
    return;
  }
  try {
    await post("api/listen/answer", { rater, number: turn.number, chosen });
  } catch (error) {
    return complain(error);
  }
  for (const player of players) player.pause();
  answered = [...answered.filter((number) => number !== turn.number), turn.number];
  await next();
}

async function back() {
  const last = answered.filter((number) => turn.number !== number).at(-1);
  if (last !== undefined) {
    answered = answered.filter((number) => number !== last);
    await next(last);
  }
}

function begin(name) {
  rater = name;
  answered = [];
  localStorage.setItem(KEPT, name);
  return next();
}

function forget() {
  for (const player of players) player.pause();
  localStorage.removeItem(KEPT);
  rater = turn = null;
  show("who");
  by("rater").value = "";
  by("rater").focus();
}

const FIGURES = {
  raters: "raters", answers: "answers", cannot_tell: "cannot tell", judged: "judged", ties: "ties",
  percent_agreement: "pairs of equal votes", krippendorff_alpha: "Krippendorff's alpha", agreement_with_list: "agreement with the list",
};

async function showFigures() {
  const figures = await ask("api/listen/figures").catch(complain);
  if (!figures) return;
  const number = (value) => (value === null ? "–" : Number.isInteger(value) ? String(value) : value.toFixed(3));
  by("figures").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "asked for"), ...Object.values(FIGURES).map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...Object.entries(figures).map(([name, row]) =>
      el("tr", {}, el("th", { scope: "row" }, name === "track" ? "as a whole" : name), ...Object.keys(FIGURES).map((key) => el("td", {}, number(row[key])))))),
  );
}

for (const player of players) {
  player.addEventListener("playing", () => { heard.add(player.id); enable(); });
  player.addEventListener("error", () => { if (player.error) by("hint").textContent = "One of the recordings cannot be played: say that you cannot tell."; });
}
by("choose-left").addEventListener("click", () => answer("left"));
by("choose-right").addEventListener("click", () => answer("right"));
by("cannot-tell").addEventListener("click", () => answer("cannot tell"));
for (const id of ["back", "back-end"]) by(id).addEventListener("click", back);
for (const id of ["other", "other-end"]) by(id).addEventListener("click", forget);
by("organiser").addEventListener("toggle", () => by("organiser").open && showFigures());
by("who").addEventListener("submit", (event) => { event.preventDefault(); begin(by("rater").value.trim()); });

by("judged").addEventListener("click", () => save("triplets.csv", "api/listen/triplets.csv").catch(complain));

async function start() {
  await catalogue().catch(complain); // which says how recordings are reached
  const before = localStorage.getItem(KEPT);
  if (before) begin(before);
  else show("who");
}

start();
