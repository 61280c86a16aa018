// Building elements. Text always goes in as text, so nothing that a task says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; `props` holds attributes, `class`, `data-…`, and `on…` listeners. */
export function el(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** An SVG element. */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/** One of the icons that the page carries. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Set text only if it differs: an untouched node costs no layout and keeps a selection. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set attributes; null removes one. */
export function setAttributes(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value == null || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  }
}

/** Say something to people who listen to the page. */
export function announce(text) {
  const place = document.getElementById("announce");
  if (place) place.textContent = text;
}

/** Show a problem beside what caused it; null clears it. */
export function showProblem(place, problem) {
  place.hidden = !problem;
  if (!problem) return fill(place);
  const fields = (problem.errors ?? []).map((one) => `${one.field}: ${one.message}`);
  const text = fields.length ? `${problem.title}. ${fields.join("; ")}` : problem.detail || problem.title;
  return fill(place, icon("alert"), text);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}
