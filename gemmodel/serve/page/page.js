const at = (id) => document.getElementById(id);
const video = document.querySelector("video");
const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
let asking = 0; // of several photos in a row only the last one's answer is shown

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

async function post(path, photo) {
  const answer = await fetch(path, { method: "POST", body: photo });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${answer.status}`);
}

async function ask(photo) {
  const mine = ++asking;
  at("result").hidden = true;
  say("Looking …");
  try {
    const answer = await (await post("answer", photo)).json();
    if (mine !== asking) return;
    show(photo, answer);
    const map = await (await post("why", photo)).blob();
    if (mine !== asking) return;
    at("why").src = URL.createObjectURL(map);
    at("why").hidden = false;
    say("");
  } catch (error) {
    if (mine === asking) say(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
  }
}

function show(photo, answer) {
  const few = answer.prediction_set.length;
  at("photo").src = URL.createObjectURL(photo);
  at("text").textContent = answer.text;
  at("look").textContent = answer.unknown
    ? "This photo is unlike all that were learnt from. The names below are only the nearest."
    : few > 1 ? `They look alike: the photo alone does not tell them apart. ${answer.gem} belongs to: ${answer.mineral_class}.`
    : `It belongs to: ${answer.mineral_class}.`;
  at("top").replaceChildren(...answer.top.map(([gem, share]) => {
    const line = make("li", "");
    const percent = share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
    line.append(make("span", gem), make("span", percent), make("meter", "", { value: share, max: 1, ariaLabel: gem }));
    return line;
  }));
  at("why").hidden = true;
  at("alike").hidden = !answer.nearest.length;
  at("alike").querySelector("ul").replaceChildren(...answer.nearest.map((near) => {
    const line = make("li", "");
    line.append(make("img", "", { src: near.photo, alt: `A known photo of ${near.gem}` }), make("div", near.gem));
    return line;
  }));
  const facts = Object.entries(answer.properties);
  at("about").hidden = !facts.length;
  at("about").querySelector("h3").textContent = `About ${answer.gem}`;
  at("about").querySelector("dl").replaceChildren(...facts.flatMap(([name, value]) => [
    make("dt", name.replace(/([a-z])([A-Z])/g, "$1 $2")), make("dd", value),
  ]));
  at("result").hidden = false;
  at("result").focus({ preventScroll: true });
  at("result").scrollIntoView({ block: "start" });
  say("Working out why …");
}

at("file").addEventListener("change", (event) => {
  if (event.target.files[0]) ask(event.target.files[0]);
  event.target.value = ""; // the same photo may be chosen again
});
document.addEventListener("paste", (event) => {
  const photo = event.clipboardData.files[0];
  photo ? ask(photo) : say("There is no picture in what was pasted.", true);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
});

function stop() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  at("live").hidden = true;
}
at("camera").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    at("live").hidden = false;
    at("take").focus();
    say("");
  } catch {
    say("The camera cannot be used: allow it in the browser, and open this page by https or on this machine.", true);
  }
});
at("stop").addEventListener("click", stop);
at("take").addEventListener("click", () => {
  const canvas = make("canvas", "", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  canvas.toBlob(ask, "image/jpeg", 0.95);
});
