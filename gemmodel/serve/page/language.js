// The page's texts: one JSON file a language, with the same keys.
export const LANGUAGES = { en: "English", de: "Deutsch", fr: "Français", es: "Español", th: "ไทย", zh: "中文" };
export let language = "en";
let texts = {};
let requested = null; // the language that was asked for last

export const preferred = () => {
  const wanted = [storage("getItem", "language"), ...navigator.languages.map((tag) => tag.split("-")[0].toLowerCase())];
  return wanted.find((tag) => tag in LANGUAGES) ?? "en";
};

export async function load(tag) {
  requested = tag;
  const response = await fetch(`languages/${tag}.json`);
  if (!response.ok) throw new Error(`languages/${tag}.json: ${response.status}`);
  const loaded = await response.json();
  if (requested !== tag) return; // another one was chosen meanwhile
  texts = loaded;
  language = document.documentElement.lang = tag;
  document.title = t("title");
  for (const [attribute, set] of Object.entries({
    text: (element, value) => { element.textContent = value; },
    label: (element, value) => element.setAttribute("aria-label", value),
    alt: (element, value) => { element.alt = value; },
  })) {
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) set(element, t(element.dataset[attribute]));
  }
}

export function choose(tag) {
  storage("setItem", "language", tag);
  return load(tag);
}

export const has = (key) => Object.hasOwn(texts, key);
// A key that a newer server has, and this tab's texts lack, is its own text.
export const t = (key, values = {}) => (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
export const number = (value) => new Intl.NumberFormat(language).format(value);
export const either = (names) => new Intl.ListFormat(language, { type: "disjunction" }).format(names);
export const all = (names) => new Intl.ListFormat(language, { type: "conjunction" }).format(names);
export function percent(probability, digits = 1) {
  const format = new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });
  return digits && probability < 0.001 ? `< ${format.format(0.001)}` : format.format(probability);
}

function storage(method, ...values) {
  try {
    return localStorage[method](...values);
  } catch { // a browser may refuse it
    return null;
  }
}
