// The field to find a track by typing, after the ARIA combobox pattern.

import { complain, get } from "./api.js";
import { by, debounced, el } from "./dom.js";
import { tags, titled } from "./tracks.js";

let options = [];
let active = -1;
let pick = () => {};

function close() {
  by("suggestions").hidden = true;
  by("find").setAttribute("aria-expanded", "false");
  by("find").removeAttribute("aria-activedescendant");
  active = -1;
}

function activate(number) {
  const items = by("suggestions").children;
  active = (number + items.length) % items.length;
  [...items].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
  items[active].scrollIntoView({ block: "nearest" });
  by("find").setAttribute("aria-activedescendant", items[active].id);
}

function choose(track) {
  close();
  by("find").value = "";
  pick(track);
}

async function suggest() {
  const text = by("find").value.trim();
  if (!text) return close();
  const { tracks } = await get("tracks", { q: text }).catch((error) => { complain(error); return { tracks: [] }; });
  if (by("find").value.trim() !== text) return;
  options = tracks;
  const items = tracks.map((track, i) => el("li", { role: "option", id: `option-${i}`, "aria-selected": "false",
    onmousedown: (event) => { event.preventDefault(); choose(track); } }, titled(track), tags(track)));
  by("suggestions").replaceChildren(...(items.length ? items : [el("li", { class: "dim" }, "No track found")]));
  by("suggestions").hidden = false;
  by("find").setAttribute("aria-expanded", "true");
  active = -1;
}

export function setUpFinding(onPick) {
  pick = onPick;
  by("find").addEventListener("input", debounced(suggest, 120));
  by("find").addEventListener("blur", close);
  by("find").addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (by("suggestions").hidden || !options.length) return;
    if (event.key === "ArrowDown") activate(active + 1);
    else if (event.key === "ArrowUp") activate(active < 0 ? -1 : active - 1);
    else if (event.key === "Enter") choose(options[Math.max(active, 0)]);
    else return;
    event.preventDefault();
  });
}
