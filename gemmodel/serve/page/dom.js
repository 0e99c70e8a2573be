export const byId = (id) => document.getElementById(id);
export const create = (tag, text, properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);

export function picture(source, alt, caption = null, loading = "eager") {
  const item = create("li", "");
  item.append(create("img", "", { loading, src: source, alt }));
  if (caption !== null) item.append(create("div", caption));
  return item;
}

export function download(blob, name) {
  const link = create("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
