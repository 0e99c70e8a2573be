const byId = (id) => document.getElementById(id);
const video = document.querySelector("video");
const create = (tag, text, properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);
let latest = 0; // number of the latest photo; results for earlier ones are dropped

function showStatus(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function post(path, photo) {
  const response = await fetch(path, { method: "POST", body: photo });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error ?? `The server responded with status ${response.status}.`);
}

async function predict(photo) {
  const current = ++latest;
  byId("result").hidden = true;
  showStatus("Predicting …");
  try {
    const prediction = await (await post("predict", photo)).json();
    if (current !== latest) return;
    showPrediction(photo, prediction);
    showStatus("Computing the explanation …");
    const explained = await post("explain", photo);
    const explanation = await explained.blob();
    if (current !== latest) return;
    byId("why").replaceChildren(...JSON.parse(decodeURIComponent(explained.headers.get("Explanation"))).map((sentence) => create("li", sentence)));
    byId("explanation").src = URL.createObjectURL(explanation);
    byId("explanation").hidden = false;
    showStatus("");
  } catch (error) {
    if (current === latest) showStatus(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
  }
}

function showPrediction(photo, prediction) {
  byId("photo").src = URL.createObjectURL(photo);
  byId("text").textContent = prediction.text;
  const mineralClass = `Mineral class of ${prediction.gem}: ${prediction.mineral_class}.`;
  byId("details").textContent = prediction.unknown
    ? "This photo is unlike all training photos. The gems below are only the most similar ones."
    : [...prediction.details, mineralClass].join(" ");
  byId("top").replaceChildren(...prediction.top.map(([gem, probability]) => {
    const item = create("li", "");
    const percent = probability < 0.001 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
    const bar = create("meter", "", { value: probability, max: 1, ariaLabel: gem });
    item.append(create("span", gem), create("span", percent), bar);
    return item;
  }));
  byId("explanation").hidden = true;
  byId("why").replaceChildren();
  byId("nearest").hidden = !prediction.nearest.length;
  byId("nearest").querySelector("ul").replaceChildren(...prediction.nearest.map((neighbour) => {
    const item = create("li", "");
    const image = create("img", "", { src: neighbour.photo, alt: `A training photo of ${neighbour.gem}` });
    item.append(image, create("div", neighbour.gem));
    return item;
  }));
  const properties = Object.entries(prediction.properties);
  byId("properties").hidden = !properties.length;
  byId("properties").querySelector("h3").textContent = `Properties of ${prediction.gem}`;
  byId("properties").querySelector("dl").replaceChildren(...properties.flatMap(([name, value]) => [
    create("dt", name.replace(/([a-z])([A-Z])/g, "$1 $2")), create("dd", value),
  ]));
  byId("result").hidden = false;
  byId("result").focus({ preventScroll: true });
  byId("result").scrollIntoView({ block: "start" });
}

byId("file").addEventListener("change", (event) => {
  if (event.target.files[0]) predict(event.target.files[0]);
  event.target.value = ""; // so that choosing the same photo again is a change, too
});
document.addEventListener("paste", (event) => {
  const photo = event.clipboardData.files[0];
  photo ? predict(photo) : showStatus("The clipboard does not hold a photo.", true);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
});

function stopCamera() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  byId("live").hidden = true;
}
byId("camera").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    byId("live").hidden = false;
    byId("capture").focus();
    showStatus("");
  } catch {
    showStatus("The camera cannot be used. Allow it in the browser, and open this page by https or on this machine.", true);
  }
});
byId("stop").addEventListener("click", stopCamera);
byId("capture").addEventListener("click", () => {
  const canvas = create("canvas", "", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  stopCamera();
  canvas.toBlob(predict, "image/jpeg", 0.95);
});
