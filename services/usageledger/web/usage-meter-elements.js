/** How elements are made, for <usage-meter> and for our pages: data become text, never markup. */

const SVG_NAMES = new Set(["svg", "path", "g", "rect", "line", "text"]);
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Stands for a child or a property that is left out. */
/** @typedef {null | undefined | false} Nothing */
/** @typedef {Node | string | number | Nothing} Child */
/** @typedef {string | number | boolean | Nothing | Listener} Property */

/**
 * Make an element: `element("p.muted", { id: "x", click: listener }, "text", node)`.
 * Children that are texts become text nodes, so nothing from outside is ever read as markup.
 * @template {string} Tag
 * @param {Tag} tag A name, with classes behind it.
 * @param {Record<string, Property>} [properties] Functions are listeners; `--x` is a style.
 * @param {...(Child | (Child | Child[])[])} children
 * @returns {ElementOf<Tag>}
 */
export function element(tag, properties = {}, ...children) {
  const [name = "", ...classes] = tag.split(".");
  const made = SVG_NAMES.has(name)
    ? /** @type {SVGElement} */ (document.createElementNS(SVG_NAMESPACE, name))
    : document.createElement(name);
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (isNothing(value)) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key.startsWith("--")) made.style.setProperty(key, String(value));
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(2)) {
    if (!isNothing(child)) made.append(typeof child === "number" ? String(child) : child);
  }
  return /** @type {ElementOf<Tag>} */ (made);
}

/**
 * Whether a value is left out. The empty text and 0 are not.
 * @param {unknown} value
 * @returns {value is Nothing}
 */
export const isNothing = (value) => value === null || value === undefined || value === false;

/**
 * Make a list's children match `items`, and keep the nodes of the items that stay. So what is open
 * stays open, and what has the focus keeps it.
 * @template Item
 * @param {HTMLElement} parent
 * @param {Item[]} items
 * @param {(item: Item) => string} keyOf
 * @param {(item: Item) => HTMLElement} make
 * @param {(node: HTMLElement, item: Item) => void} [update]
 */
export function updateList(parent, items, keyOf, make, update) {
  const before = /** @type {HTMLElement[]} */ ([...parent.children]);
  const known = new Map(before.map((node) => [node.dataset.key, node]));
  known.delete(undefined);
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const node = known.get(key) ?? make(item);
    node.dataset.key = key;
    update?.(node, item);
    return node;
  });
  const kept = new Set(wanted);
  for (const node of before) if (!kept.has(node)) node.remove();
  wanted.forEach((node, index) => {
    const there = parent.children[index] ?? null;
    if (there !== node) parent.insertBefore(node, there);
  });
}

/**
 * A descendant that is certain to be there.
 * @param {ParentNode} parent
 * @param {string} selector
 */
export function find(parent, selector) {
  return /** @type {HTMLElement} */ (parent.querySelector(selector));
}
