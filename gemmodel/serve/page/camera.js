// The camera: a live picture, and photos of it.
const video = document.querySelector("video");
const live = document.getElementById("live");
const capture = document.getElementById("capture");

// Returns null, or the key of the sentence that says why there is no camera.
export async function start() {
  stop();
  if (!window.isSecureContext || !navigator.mediaDevices) return "camera_https";
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    stop(); // the stream of another press meanwhile
    video.srcObject = stream;
  } catch (error) {
    return { NotAllowedError: "camera_denied", NotFoundError: "camera_none" }[error.name] ?? "camera_failed";
  }
  live.hidden = false;
  return null;
}

video.addEventListener("loadeddata", () => { // before, there is no picture to take
  capture.disabled = false;
  capture.focus();
});

export function stop() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  live.hidden = capture.disabled = true;
}

export function take(name) {
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  return new Promise((done) => canvas.toBlob((blob) => done(new File([blob], name, { type: "image/jpeg" })), "image/jpeg", 0.95));
}
