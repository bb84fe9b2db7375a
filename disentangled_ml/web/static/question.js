// The question that the page asks: its state, as the fragment of the address, and as the API takes it.

export const STEPS = 8;

let usual = {}; // weights that count where the question says nothing

// Sliders end at 1, and only the ratios of weights matter.
export function setUsualWeights(conditions) {
  const most = Math.max(...conditions.map(({ weight }) => weight));
  usual = Object.fromEntries(conditions.map(({ name, weight }) => [name, weight / most]));
}

// A chip is a track, { id }, or an upload, { upload }, with a side, "like" or "avoid", and a condition, or null for all of them.
// The ends of a path are tracks or uploads alike, or null.
export const emptyQuestion = () => ({
  chips: [], labels: {}, weights: {}, tempo: [null, null], change: null, others: false, farthest: false, perArtist: null, perAlbum: null,
  fold: true, view: "similar", from: null, to: null, steps: STEPS,
});

export const placeOf = (chip) => (chip.condition === null ? chip.side : `${chip.side}.${chip.condition}`);

export function placed(place) {
  const [side, ...rest] = place.split(".");
  return { side, condition: rest.length ? rest.join(".") : null };
}

export const same = (a, b) => a.id === b.id && a.upload === b.upload;

const number = (text) => (text === null || text === "" || !Number.isFinite(Number(text)) ? null : Number(text));
const range = (text) => (text === null ? [null, null] : text.split("~").map(number));

export function toFragment(state) {
  const parts = new URLSearchParams();
  for (const chip of state.chips) parts.append(chip.upload ? `upload.${placeOf(chip)}` : placeOf(chip), chip.upload ?? chip.id);
  for (const [name, label] of Object.entries(state.labels)) parts.set(`label.${name}`, label);
  for (const [name, weight] of Object.entries(state.weights)) if (weight !== usual[name]) parts.set(`weight.${name}`, weight);
  if (state.tempo.some((bound) => bound !== null)) parts.set("tempo", state.tempo.map((bound) => bound ?? "").join("~"));
  if (state.change) parts.set("change", state.change.join("~"));
  const flags = { others: state.others, farthest: state.farthest, unfolded: !state.fold };
  for (const [name, on] of Object.entries(flags)) if (on) parts.set(name, "1");
  for (const [name, value] of [["per-artist", state.perArtist], ["per-album", state.perAlbum]]) if (value !== null) parts.set(name, value);
  if (state.view === "path") {
    parts.set("view", "path");
    for (const name of ["from", "to"]) if (state[name]) parts.set(state[name].upload ? `upload.${name}` : name, state[name].upload ?? state[name].id);
    if (state.steps !== STEPS) parts.set("steps", state.steps);
  }
  return parts.toString();
}

function endIn(parts, name) {
  if (parts.has(`upload.${name}`)) return { upload: parts.get(`upload.${name}`) };
  return parts.has(name) ? { id: parts.get(name) } : null;
}

export function fromFragment(fragment, conditions) {
  const parts = new URLSearchParams(fragment), state = emptyQuestion();
  const known = ({ side, condition }) => ["like", "avoid"].includes(side) && (condition === null || conditions.includes(condition));
  for (const [key, value] of parts) {
    const isUpload = key.startsWith("upload.");
    const place = placed(key === "track" ? "like" : isUpload ? key.slice(7) : key);
    if (known(place) && value) state.chips.push({ ...(isUpload ? { upload: value } : { id: value }), ...place });
    const name = key.slice(key.indexOf(".") + 1);
    if (key.startsWith("label.") && conditions.includes(name)) state.labels[name] = value;
    if (key.startsWith("weight.") && conditions.includes(name)) state.weights[name] = Math.min(1, Math.max(0, number(value) ?? usual[name]));
  }
  const tempo = range(parts.get("tempo")), change = range(parts.get("change"));
  if (tempo.length === 2) state.tempo = tempo;
  if (change.length === 2 && !change.includes(null)) state.change = change;
  Object.assign(state, { others: parts.has("others"), farthest: parts.has("farthest"), fold: !parts.has("unfolded") });
  Object.assign(state, { perArtist: number(parts.get("per-artist")), perAlbum: number(parts.get("per-album")) });
  Object.assign(state, { view: parts.get("view") === "path" ? "path" : "similar", from: endIn(parts, "from"), to: endIn(parts, "to") });
  state.steps = number(parts.get("steps")) ?? STEPS;
  return state;
}

export const weightsOf = (state, conditions) => Object.fromEntries(conditions.map((name) => [name, state.weights[name] ?? usual[name]]));
export const asksAnything = (state) => Object.keys(state.labels).length > 0 || state.chips.some((chip) => chip.side === "like");

export const seedOf = (chip) => (chip.upload ? { upload: chip.upload } : chip.id);

export function toQuestion(state, conditions, k) {
  const seeds = (side, condition) => state.chips.filter((chip) => chip.side === side && chip.condition === condition).map(seedOf);
  const each = (side) => Object.fromEntries(conditions.map((name) => [name, seeds(side, name)]).filter(([, own]) => own.length));
  return {
    seeds: seeds("like", null), avoid: seeds("avoid", null), seeds_of: each("like"), avoid_of: each("avoid"), labels: state.labels,
    weights: weightsOf(state, conditions), k, tempo: state.tempo, tempo_change: state.change && state.change.map((percent) => percent / 100),
    other_artists: state.others, most_dissimilar: state.farthest, per_artist: state.perArtist, per_album: state.perAlbum,
    fold_duplicates: state.fold,
  };
}
