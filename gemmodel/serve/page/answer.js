// What the page says of a photo.
import { byId, create, picture } from "./dom.js";
import { all, either, has, language, number, percent, t } from "./language.js";

const MAX_NAMES = 4;

// The answer in words: in English as the server says it, which `gemmodel predict` prints too.
export function headline(answer) {
  if (language === "en") return answer.text;
  const names = [...answer.prediction_set];
  const others = names.length - MAX_NAMES;
  if (others > 1) names.splice(MAX_NAMES, others, t("more_gems", { count: others }));
  if (answer.unknown) return t("unknown", { gems: either(names) });
  return t(answer.certainty ?? "sure", { gems: either(names) });
}

// The sentences below it; of a stone, parts are its photos' entries.
export function details({ answer, parts }) {
  if (answer.unknown) return t("unknown_details");
  const gems = [...new Set(parts?.map((part) => part.answer.gem))];
  if (gems.some((gem) => !answer.prediction_set.includes(gem))) return t("disagree", { gems: all(gems) });
  const partly = parts?.some((part) => part.answer.unknown) ? t("partly_unknown") : "";
  const mineralClass = t("mineral_class", { gem: answer.gem, class: answer.mineral_class });
  const several = answer.prediction_set.length > 1 ? t("several") : "";
  return [partly, several, ...heldOut(answer), mineralClass].filter(Boolean).join(" ");
}

// A sentence of an explanation, from its key and values; in English where a newer server has another one.
export function reason({ text, key, values }) {
  if (!has(key)) return text;
  const words = { ...values };
  for (const name of ["before", "now"]) if (name in words) words[name] = percent(words[name], 0);
  if (words.colour) words.colour = t(`colour_${words.colour}`);
  if (words.gems) words.gems = all(words.gems.map(([gem, count]) => `${gem} (${number(count)})`));
  if (words.after) words.after = reason(words.after);
  return t(key, words);
}

// What held-out photos showed of such answers, as far as the server says it.
function heldOut({ details: sentences = [], frequency = null, look_alikes: pairs = [] }) {
  if (language === "en") return sentences;
  const often = frequency === null ? [] : [t("frequency", { percent: percent(frequency) })];
  return [...often, ...pairs.map(([a, b]) => t("look_alike", { a, b }))];
}

export function showAnswer(entry) {
  const { answer, about } = entry;
  byId("demonstration-answer").hidden = !about.rendered;
  byId("photo").src = entry.url;
  byId("name").textContent = entry.label ? `${entry.name()}. ${t("example_label", { gem: entry.label })}` : entry.name();
  byId("parts").replaceChildren(...(entry.parts ?? []).map((part) => picture(part.url, part.name())));
  byId("text").textContent = headline(answer);
  byId("details").textContent = details(entry);
  const pictures = Object.fromEntries(about.gems.map(({ gem, pictures }) => [gem, pictures]));
  byId("top").replaceChildren(...(answer.unknown ? [] : answer.top).map(([gem, probability]) => {
    const item = create("li", "");
    const bar = create("meter", percent(probability), { value: probability, max: 1, ariaLabel: t("percent_of", { gem, percent: percent(probability) }) });
    const photos = create("ul", "", { className: "pictures" });
    photos.append(...(pictures[gem] ?? []).map((source) => picture(source, t("training_photo", { gem }))));
    item.append(create("span", gem), create("span", percent(probability)), bar);
    if (photos.childElementCount) item.append(photos);
    return item;
  }));
  byId("nearest").hidden = !answer.nearest.length;
  byId("nearest").querySelector("ul").replaceChildren(
    ...answer.nearest.map(({ gem, photo }) => picture(photo, t("training_photo", { gem }), gem)),
  );
  const properties = Object.entries(answer.unknown ? {} : answer.properties);
  byId("properties").hidden = !properties.length;
  byId("properties").querySelector("h3").textContent = t("properties", { gem: answer.gem });
  byId("properties").querySelector("dl").replaceChildren(...properties.flatMap(([name, value]) => [
    create("dt", name.replace(/([a-z])([A-Z])/g, "$1 $2")), create("dd", value),
  ]));
  byId("why").hidden = true;
}
