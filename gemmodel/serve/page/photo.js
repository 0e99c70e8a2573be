import { Failure } from "./network.js";

// Photos are scaled down here: models see 224 pixels, and a phone's photo takes minutes over a slow link.
const MAX_SIDE = 800;
const SMALL_BYTES = 200_000; // sent as they are

// Returns a photo to send: of a file, or of the part of it in a box [left, top, right, bottom] in [0, 1].
export async function scaledDown(file, box = null) {
  if (!box && file.size <= SMALL_BYTES) return file;
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!bitmap && box) throw new Failure("unreadable"); // the whole photo would be answered as its part
  if (!bitmap) return file; // a format that this browser does not read, or no photo: the server says which
  const [left, top, right, bottom] = box ?? [0, 0, 1, 1];
  const width = Math.max(1, Math.round((right - left) * bitmap.width));
  const height = Math.max(1, Math.round((bottom - top) * bitmap.height));
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)),
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // behind transparent parts, as the server does
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left * bitmap.width, top * bitmap.height, width, height, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const photo = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return photo && (box || photo.size < file.size) ? photo : file;
}
