import { showAbout } from "./about.js";
import { headline, reason, showAnswer } from "./answer.js";
import * as camera from "./camera.js";
import * as crop from "./crop.js";
import * as feedback from "./feedback.js";
import { byId, create, download } from "./dom.js";
import { asPicture, table } from "./keep.js";
import { choose, LANGUAGES, load, language, preferred, t } from "./language.js";
import { canRetry, makeRow, updateRow } from "./list.js";
import { Failure, get, send, sentence } from "./network.js";
import { scaledDown } from "./photo.js";

const MAX_STONE_PHOTOS = 20, MAX_BYTES = 20_000_000; // as the server has them
const entries = []; // of this tab: each photo, and each stone of several photos
let about = null; // what the server said of its model
let current = null; // the entry that is shown
let running = null; // the AbortController of the photos that are being sent
let explaining = null;
let cameraPhotos = 0;

function setStatus(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

function refresh(changed = entries) {
  byId("answers").hidden = entries.length < 2 && !entries.some(({ failure }) => failure);
  byId("examples").hidden = !about?.examples.length || entries.length > 0;
  for (const entry of changed) updateRow(entry, current);
  byId("retry-all").hidden = entries.filter(canRetry).length < 2;
  byId("join").disabled = stonePhotos().length < 2 || stonePhotos().length > MAX_STONE_PHOTOS;
  byId("csv").disabled = !entries.some(({ answer }) => answer);
}

function show(entry, { focus = true } = {}) {
  explaining?.abort();
  current = entry;
  byId("crop-open").hidden = true; // until the photo is there
  showAnswer(entry);
  crop.close();
  feedback.show(about.feedback && !entry.parts ? entry : null);
  byId("result").hidden = false;
  refresh();
  if (focus) {
    byId("result").focus({ preventScroll: true });
    byId("result").scrollIntoView({ block: "start" });
  }
  if (!entry.answer.unknown && !entry.parts) explain(entry);
}

async function explain(entry) {
  const controller = explaining = new AbortController();
  try {
    if (!entry.explanation) {
      if (!running) setStatus(t("explaining"));
      const response = await withToken([entry], () => get(`explain/${entry.answer.token}`, controller.signal));
      entry.explanation = URL.createObjectURL(await response.blob());
      entry.reasons = JSON.parse(decodeURIComponent(response.headers.get("Explanation") ?? "null"));
    }
    if (entry !== current || entry.answer.unknown) return; // the answer of another model meanwhile
    byId("why").querySelector("p").textContent = t("explanation_part");
    byId("reasons").hidden = !entry.reasons;
    byId("reasons").replaceChildren(...(entry.reasons ?? []).map((sentence) => create("li", reason(sentence))));
    byId("explanation").src = entry.explanation;
    byId("explanation").hidden = byId("why").hidden = false;
  } catch (error) {
    if (!controller.signal.aborted) setStatus(sentence(error), true);
  } finally {
    if (explaining === controller) {
      explaining = null;
      if (byId("status").textContent === t("explaining")) setStatus(""); // what else it says, such as an error, stays
    }
  }
}

// Makes a request for photos that the server keeps for some minutes; those that it has forgotten are sent again.
async function withToken(photos, request) {
  try {
    return await request();
  } catch (error) {
    if (error.key !== "gone") throw error;
    for (const photo of photos) await predict(photo);
    refresh(photos);
    if (photos.includes(current)) showAnswer(current);
    return request();
  }
}

async function loadAbout(signal) {
  about = await (await get("about", signal)).json();
  showAbout(about, tryExample);
  refresh([]);
}

// Sends a photo; with its answer an entry keeps what the page says of the answer's model.
async function predict(entry, options = {}) {
  const answer = await send("predict", entry.blob, options);
  if (answer.model !== about?.model) await loadAbout(options.signal);
  Object.assign(entry, { answer, about, doing: null, explanation: null });
}

function add(file, name, { label = null, box = null } = {}) {
  const entry = { file, name, label, cropBox: box, url: URL.createObjectURL(file), answer: null, failure: null, doing: null };
  entries.push(entry);
  makeRow(entry, { show, retry: () => run([entry]), change: () => refresh([]) });
  return entry;
}

function addFiles(files) {
  run([...files].map((file) => add(file, () => file.name)));
}

// Sends photos one after the other, and shows the first answer.
async function run(photos) {
  for (const photo of photos) Object.assign(photo, { failure: null, doing: t("waiting"), queued: true });
  refresh();
  if (running) return;
  running = new AbortController();
  explaining?.abort();
  current = null;
  byId("result").hidden = true;
  byId("work").hidden = false;
  const { signal } = running;
  let done = 0, shown = false, failure = null;
  try {
    for (let entry; (entry = entries.find(({ queued }) => queued)); done += 1) {
      entry.queued = false;
      if (signal.aborted) failure = new Failure("cancelled");
      if (["cancelled", "lost", "offline"].includes(failure?.key)) { // so would be the others
        Object.assign(entry, { failure, doing: null });
        continue;
      }
      const total = done + 1 + entries.filter(({ queued }) => queued).length;
      const report = (key, part) => {
        entry.doing = t(key, { name: entry.name() });
        setStatus(total > 1 ? `${done + 1}/${total}: ${entry.doing}` : entry.doing);
        byId("progress").value = (done + part) / total;
        refresh([entry]);
      };
      try {
        await answer(entry, report, signal);
        byId("announcement").textContent = `${entry.name()}: ${headline(entry.answer)}${entry.about.rendered ? `. ${t("demonstration_answer")}` : ""}`;
        if (!shown) show(entry, { focus: total === 1 });
        shown = true;
      } catch (error) {
        Object.assign(entry, { failure: failure = error, doing: null });
      }
      refresh([entry]);
    }
  } finally {
    running = null;
    byId("work").hidden = true;
    setStatus(failure ? sentence(failure) : explaining ? t("explaining") : "", Boolean(failure));
    refresh();
  }
}

async function answer(entry, report, signal) {
  report("preparing", 0);
  await entry.file.slice(0, 1).arrayBuffer().catch(() => { throw new Failure("unreadable"); });
  entry.blob ??= await scaledDown(entry.file, entry.cropBox);
  if (entry.blob.size > MAX_BYTES) throw new Failure("too_large"); // the server would end the connection
  report("sending", 0);
  for (;;) {
    try {
      return await predict(entry, {
        signal, onProgress: (part) => report(part < 1 ? "sending" : "predicting", 0.9 * part),
      });
    } catch (error) {
      if (error.key !== "too_many" || entries.length < 2) throw error;
      setStatus(t("waiting_rate", { seconds: error.retryAfter }));
      await new Promise((proceed) => {
        const timer = setTimeout(proceed, 1000 * error.retryAfter);
        signal.addEventListener("abort", () => { clearTimeout(timer); proceed(); });
      });
    }
  }
}

const stonePhotos = () => entries.filter(({ answer, parts, box }) => answer && !parts && box.checked);

async function join() {
  const parts = stonePhotos();
  try {
    const joined = await withToken(parts, async () => {
      const query = parts.map(({ answer }) => `token=${answer.token}`).join("&");
      return (await get(`stone?${query}`)).json();
    });
    const entry = add(parts[0].blob, () => t("joined", { names: parts.map(({ name }) => name()).join(" + ") }));
    Object.assign(entry, { blob: parts[0].blob, parts, answer: joined, about: parts[0].about });
    setStatus("");
    byId("announcement").textContent = `${entry.name()}: ${headline(joined)}`;
    show(entry);
  } catch (error) {
    setStatus(sentence(error), true);
  }
}

async function tryExample(gem, photo) {
  try {
    const blob = await (await get(photo)).blob();
    run([add(new File([blob], "example.jpg", { type: "image/jpeg" }), () => t("example", { gem }), { label: gem })]);
  } catch (error) {
    setStatus(sentence(error), true);
  }
}

function clear() {
  running?.abort();
  explaining?.abort();
  for (const { url, explanation, row } of entries) {
    [url, explanation].forEach((address) => address && URL.revokeObjectURL(address));
    row.remove();
  }
  entries.length = 0;
  current = null;
  byId("result").hidden = true;
  setStatus("");
  refresh();
  byId("file").focus();
}

async function changeLanguage(tag, change = choose) {
  await change(tag);
  byId("language").value = language;
  setStatus("");
  if (about) showAbout(about, tryExample);
  if (current) show(current, { focus: false });
  refresh();
}

byId("language").append(...Object.entries(LANGUAGES).map(([tag, name]) => create("option", name, { value: tag, lang: tag })));
byId("language").addEventListener("change", (event) => changeLanguage(event.target.value).catch(() => setStatus(t("texts_missing"), true)));
byId("file").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = ""; // so that choosing the same photo again is a change, too
});
document.addEventListener("paste", (event) => {
  if (event.target.matches?.("input")) return;
  event.clipboardData.files.length ? addFiles(event.clipboardData.files) : setStatus(t("no_photo"), true);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
});
byId("camera").addEventListener("click", async () => {
  const problem = await camera.start();
  setStatus(problem ? t(problem) : "", Boolean(problem));
});
byId("stop").addEventListener("click", camera.stop);
byId("capture").addEventListener("click", async () => {
  const number = ++cameraPhotos;
  run([add(await camera.take(`camera-${number}.jpg`), () => t("camera_photo", { number }))]);
});
byId("cancel").addEventListener("click", () => running?.abort());
byId("retry-all").addEventListener("click", () => run(entries.filter(canRetry)));
byId("join").addEventListener("click", join);
byId("csv").addEventListener("click", () => download(table(entries), "gems.csv"));
byId("clear").addEventListener("click", clear);
byId("photo").addEventListener("error", (event) => { event.target.hidden = true; });
byId("photo").addEventListener("load", (event) => {
  event.target.hidden = false;
  byId("crop-open").hidden = Boolean(current?.parts);
});
byId("crop-open").addEventListener("click", () => {
  const proposed = current.answer.box;
  byId("crop-hint").textContent = t(proposed ? "crop_proposed" : "crop_free");
  crop.open(current.url, proposed ?? [0.1, 0.1, 0.9, 0.9]);
});
byId("crop-close").addEventListener("click", () => { crop.close(); byId("crop-open").focus(); });
byId("crop-use").addEventListener("click", async () => {
  const whole = current;
  try {
    const part = await scaledDown(whole.file, crop.box());
    run([add(part, () => t("cropped", { name: whole.name() }))]);
  } catch (error) {
    setStatus(sentence(error), true);
  }
});
byId("save").addEventListener("click", async () => download(await asPicture(current), "gem.png"));
byId("share").hidden = !navigator.canShare?.({ files: [new File([""], "gem.png", { type: "image/png" })] });
byId("share").addEventListener("click", async () => {
  const file = new File([await asPicture(current)], "gem.png", { type: "image/png" });
  await navigator.share({ files: [file], title: t("title") }).catch((error) => {
    if (error.name !== "AbortError") download(file, file.name); // which says that the user closed it
  });
});
try {
  await changeLanguage(preferred(), load);
  document.querySelector(".page").hidden = false;
  await loadAbout();
} catch (error) {
  document.querySelector(".page").hidden = false;
  setStatus(error instanceof Failure ? sentence(error) : "The page's texts cannot be loaded. Reload the page.", true);
}
