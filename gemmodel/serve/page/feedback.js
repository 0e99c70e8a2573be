// "This is wrong, it is …": sends a photo and a name to the operator, after a consent.
import { byId } from "./dom.js";
import { t } from "./language.js";
import { send, sentence } from "./network.js";

let photo = null; // the entry that the form is about

// Shows an empty form for an entry; null hides it.
export function show(entry) {
  photo = entry;
  byId("feedback").hidden = !entry;
  byId("feedback").open = false;
  byId("right-gem").value = "";
  byId("consent").checked = false;
  byId("give").disabled = true;
  byId("feedback-status").textContent = "";
}

for (const field of ["right-gem", "consent"]) {
  byId(field).addEventListener("input", () => {
    byId("give").disabled = !(byId("consent").checked && byId("right-gem").value.trim());
  });
}
byId("give").addEventListener("click", async () => {
  const gem = byId("right-gem").value.trim();
  const sent = photo;
  byId("give").disabled = true;
  try {
    await send(`feedback?${new URLSearchParams({ gem, consent: "yes" })}`, sent.blob);
    if (sent === photo) byId("feedback-status").textContent = t("given", { gem });
  } catch (error) {
    if (sent !== photo) return;
    byId("feedback-status").textContent = sentence(error);
    byId("give").disabled = false;
  }
});
