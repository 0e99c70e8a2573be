import { byId, create, picture } from "./dom.js";
import { number, t } from "./language.js";

// What the model was trained on, as a sentence.
export const model = (about) => {
  const values = { photos: number(about.photos ?? 0), gems: number(about.gems.length) };
  return t(about.photos === null ? "trained_unrecorded" : about.rendered ? "demonstration" : "trained", values);
};

// Shows it above everything; tryExample(gem, address) is called with the example that is chosen.
export function showAbout(about, tryExample) {
  byId("demonstration").hidden = !about.rendered;
  byId("demonstration").textContent = about.rendered ? model(about) : "";
  byId("trained").hidden = about.rendered;
  byId("trained").textContent = model(about);
  byId("gems").querySelector("summary").textContent = t("gem_list", { gems: number(about.gems.length) });
  byId("gems").querySelector("ul").replaceChildren(...about.gems.map(({ gem, photos, pictures }) => {
    const count = photos === null ? "" : t(about.rendered ? "gem_pictures" : "gem_photos", { photos: number(photos) });
    const item = pictures.length ? picture(pictures[0], "", gem, "lazy") : create("li", gem);
    item.append(create("div", count));
    return item;
  }));
  byId("known-gems").replaceChildren(...about.gems.map(({ gem }) => create("option", "", { value: gem })));
  byId("examples").querySelector("ul").replaceChildren(...about.examples.map(({ gem, photo }) => {
    const button = create("button", "", { type: "button", className: "thumbnail" });
    button.append(create("img", "", { src: photo, alt: t("example", { gem }) }));
    button.addEventListener("click", () => tryExample(gem, photo));
    const item = create("li", "");
    item.append(button);
    return item;
  }));
}
