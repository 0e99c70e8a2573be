// Answers to keep: as a table, and as a picture.
import { model } from "./about.js";
import { details, headline } from "./answer.js";
import { percent, t } from "./language.js";
import { sentence } from "./network.js";

const COLUMNS = ["photo", "answer", "unknown", "gem", "mineral_class", "probability", "prediction_set", "error"];
// Spreadsheets compute a cell that begins so; an apostrophe keeps it a text.
const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;

// Returns a CSV file of entries, in their order. An unknown photo has no gem and no probability.
export function table(entries) {
  const rows = entries.map(({ name, answer, failure }) => {
    if (!answer) return [name(), "", "", "", "", "", "", failure ? sentence(failure) : ""];
    const known = answer.unknown ? ["", "", "", ""]
      : [answer.gem, answer.mineral_class, answer.probability, answer.prediction_set.join("; ")];
    return [name(), headline(answer), answer.unknown, ...known, ""];
  });
  const lines = [COLUMNS, ...rows].map((row) => row.map(cell).join(","));
  return new Blob(["\ufeff", lines.join("\r\n"), "\r\n"], { type: "text/csv" }); // the mark tells Excel that it is UTF-8
}

const WIDTH = 1000, MARGIN = 40, PHOTO = 400; // pixels

// Returns a PNG of a photo and its answer, with what the page says of the model.
export async function asPicture(entry) {
  const photo = await createImageBitmap(entry.blob, { imageOrientation: "from-image" }).catch(() => null);
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: 2000 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, WIDTH, canvas.height);
  let bottom = MARGIN;
  if (photo) {
    const scale = PHOTO / Math.max(photo.width, photo.height);
    context.drawImage(photo, MARGIN, MARGIN, photo.width * scale, photo.height * scale);
    bottom += photo.height * scale;
    photo.close();
  }
  let y = MARGIN;
  const write = (text, size, x, width) => {
    context.font = `${size}px system-ui, sans-serif`;
    context.fillStyle = "#111";
    for (const line of wrap(context, text, width)) context.fillText(line, x, y += size * 1.35);
    y += size * 0.4;
  };
  const column = MARGIN + (photo ? PHOTO + MARGIN : 0);
  if (entry.about.rendered) write(t("demonstration_answer"), 18, column, WIDTH - column - MARGIN);
  write(headline(entry.answer), 34, column, WIDTH - column - MARGIN);
  write(details(entry), 18, column, WIDTH - column - MARGIN);
  for (const [gem, probability] of entry.answer.unknown ? [] : entry.answer.top) {
    write(t("percent_of", { gem, percent: percent(probability) }), 20, column, WIDTH - column - MARGIN);
  }
  y = Math.max(y, bottom) + MARGIN / 2;
  write(`${model(entry.about)} ${t("laboratory")}`, 16, MARGIN, WIDTH - 2 * MARGIN);
  const cut = Object.assign(document.createElement("canvas"), { width: WIDTH, height: Math.ceil(y + MARGIN) });
  cut.getContext("2d").drawImage(canvas, 0, 0);
  return new Promise((done) => cut.toBlob(done, "image/png"));
}

// Returns the lines of a text; Thai and Chinese have no spaces between words.
function* wrap(context, text, width) {
  let line = "";
  for (const { segment } of new Intl.Segmenter(document.documentElement.lang, { granularity: "word" }).segment(text)) {
    if (line && context.measureText(line + segment).width > width) {
      yield line.trimEnd();
      line = "";
    }
    line += segment;
  }
  yield line;
}
