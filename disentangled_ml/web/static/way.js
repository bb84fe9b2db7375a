// A path as a line on the map, with the numbers of the list at its tracks. The list tells the same, so screen readers pass it over.

import { svg } from "./dom.js";

const NUMBERED = 12; // marks with a number; of a longer path every so many has one
const WIDE = 500, HIGH = 400; // of the map
const MARK = 18; // height of a mark; a leg that has an arrow is twice as long
const NARROW = matchMedia("(max-width: 36rem)"); // where the map is small, and marks in its units are larger

function textOf(numbers) {
  const isRun = numbers.at(-1) - numbers[0] === numbers.length - 1;
  if (numbers.length > 2 && isRun) return `${numbers[0]}–${numbers.at(-1)}`;
  return numbers.length > 3 ? `${numbers.slice(0, 3).join(",")}…` : numbers.join(",");
}

// Where several of the points lie, one mark has all their numbers.
function marksOf(points, high) {
  const last = points.length - 1, every = Math.ceil(last / NUMBERED), marks = new Map();
  points.forEach(({ x, y }, i) => {
    const mark = marks.get(`${x} ${y}`) ?? { x, y, dot: { x, y }, numbers: [] };
    mark.numbers.push(i);
    marks.set(`${x} ${y}`, mark);
  });
  const numbered = [...marks.values()].filter(({ numbers }) => numbers.some((number) => number === last || number % every === 0));
  return numbered.map((mark) => ({ ...mark, text: textOf(mark.numbers), isEnd: mark.numbers.includes(0) || mark.numbers.includes(last) }))
    .map((mark) => ({ ...mark, high, wide: Math.max(high, high * (0.45 + 0.42 * mark.text.length)) }));
}

const within = (value, room, most) => Math.min(most - room, Math.max(room, value));

// Move marks that would hide each other apart, within the map.
function spread(marks) {
  for (let round = 0; round < 60; round += 1)
    marks.forEach((a, i) => marks.slice(i + 1).forEach((b) => {
      const [x, y] = [b.x - a.x, b.y - a.y], apart = Math.hypot(x, y) || 1, push = ((a.wide + b.wide) / 2 + 1 - apart) / 2;
      if (push <= 0) return;
      for (const [mark, sign] of [[a, -1], [b, 1]])
        Object.assign(mark, { x: within(mark.x + (sign * push * x) / apart, mark.wide / 2, WIDE), y: within(mark.y + (sign * push * y) / apart, mark.high / 2, HIGH) });
    }));
  return marks;
}

const markOf = ({ x, y, dot, text, wide, high, isEnd }) => svg("g", { class: isEnd ? "end" : null },
  svg("path", { class: "lead", d: `M${dot.x} ${dot.y}L${x} ${y}` }),
  svg("rect", { x: x - wide / 2, y: y - high / 2, width: wide, height: high, rx: high / 2 }),
  svg("text", { x, y: y + 0.24 * high, "font-size": 0.7 * high }, text));

function arrow(from, to, high) {
  const angle = (Math.atan2(to.y - from.y, to.x - from.x) * 180) / Math.PI, middle = `${(from.x + to.x) / 2} ${(from.y + to.y) / 2}`;
  if (Math.hypot(to.x - from.x, to.y - from.y) < 2 * high) return null;
  return svg("path", { class: "arrow", d: "M-5 -5.5 6 0 -5 5.5Z", transform: `translate(${middle}) rotate(${angle})` });
}

// Draw the line through points in the units of the map, in their order.
export function drawWay(points) {
  const high = NARROW.matches ? 1.45 * MARK : MARK, d = `M${points.map(({ x, y }) => `${x} ${y}`).join("L")}`;
  return svg("g", { class: "way", "aria-hidden": "true" }, svg("path", { class: "edge", d }), svg("path", { class: "line", d }),
    ...points.slice(1).map((to, i) => arrow(points[i], to, high)),
    ...points.map(({ x, y }) => svg("circle", { cx: x, cy: y, r: 3.2 })),
    ...spread(marksOf(points, high)).map(markOf));
}
