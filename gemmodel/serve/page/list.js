// The photos of this tab, in their order.
import { headline } from "./answer.js";
import { byId, create } from "./dom.js";
import { t } from "./language.js";
import { sentence } from "./network.js";

// The same photo would fail again.
const FINAL = ["refused", "too_large", "not_a_photo", "too_many_pixels", "too_much_memory", "damaged"];

export const canRetry = ({ failure }) => Boolean(failure) && !FINAL.includes(failure.key);

// Makes the row of an entry; its buttons call the functions.
export function makeRow(entry, { show, retry, change }) {
  const row = create("li", "");
  const box = create("input", "", { type: "checkbox", checked: true });
  const button = create("button", "", { type: "button", className: "thumbnail" });
  const image = create("img", "", { loading: "lazy", src: entry.url, alt: "" });
  const words = create("div", "");
  const again = create("button", "", { type: "button", className: "again" });
  image.addEventListener("error", () => { image.hidden = true; }); // a kind of photo that this browser does not read
  box.addEventListener("change", change);
  button.addEventListener("click", () => show(entry));
  again.addEventListener("click", () => retry(entry));
  button.append(image);
  words.append(create("div", "", { className: "small" }), create("div", ""));
  row.append(box, button, words, again);
  Object.assign(entry, { row, box });
  byId("list").append(row);
}

export function updateRow(entry, current) {
  const [box, button, words, again] = entry.row.children;
  const [name, text] = words.children;
  name.textContent = entry.name();
  text.textContent = entry.failure ? sentence(entry.failure) : entry.answer ? headline(entry.answer) : entry.doing ?? t("waiting");
  text.className = entry.failure ? "error" : "";
  box.ariaLabel = t("same_stone", { name: entry.name() });
  box.hidden = !entry.answer || Boolean(entry.parts);
  button.ariaLabel = t("show_answer", { name: entry.name() });
  button.disabled = !entry.answer;
  again.textContent = t("retry");
  again.hidden = !canRetry(entry);
  if (entry === current) entry.row.setAttribute("aria-current", "true"); else entry.row.removeAttribute("aria-current");
}
