// Small helpers that build the page.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function select(label, options, value, onchange) {
  const list = element("select", { onchange: (event) => onchange(event.target.value) });
  for (const [key, text] of options) list.append(element("option", { value: key, selected: String(key) === String(value) }, text));
  return element("label", {}, label, list);
}

export function loadImage(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("The image cannot be shown. Its file may be missing."));
    image.src = address;
  });
}

const SHARP = 960; // pixels of the longer side, so that marks and maps over small pictures are sharp

// Gives a canvas the size of a picture, or more if the picture is small, and draws the picture. Returns the context.
export function drawPicture(canvas, picture) {
  const { naturalWidth: width, naturalHeight: height } = picture;
  const scale = Math.max(1, SHARP / Math.max(width, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context;
}

// Returns the pixel of an image inside its bounds.
export function inside([x, y], { width, height }) {
  return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
}

// Returns the pixel of an image under the mouse or a finger. The image fills the canvas.
export function pixelAt(event, canvas, image) {
  const box = canvas.getBoundingClientRect();
  const place = [((event.clientX - box.left) / box.width) * image.width, ((event.clientY - box.top) / box.height) * image.height];
  return inside(place.map(Math.floor), image);
}

// Returns how many pixels an arrow key moves a point to the right and down; undefined for other keys.
export function arrowStep(event) {
  const step = event.shiftKey ? 20 : 4;
  return { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
}

export function say(text) {
  document.getElementById("live").textContent = text;
}

export function message(text) {
  return element("p", { class: "message", role: "alert" }, text);
}

// Returns a button that saves a canvas as a PNG file.
export function saveButton(canvas, name) {
  const save = async () => {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    const link = element("a", { href: URL.createObjectURL(blob), download: `${name.replace(/[^\w.-]+/g, "-")}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return element("button", { type: "button", onclick: save, title: "Save as PNG" }, "Save");
}

// Returns a figure that is a button, with a caption and a button that saves it. `action` says what a click does.
export function figureWithButton(canvas, onclick, title, text, action, name) {
  const open = element("button", { type: "button", class: "open", onclick, "aria-label": `${title}: ${text}. ${action}` }, canvas);
  return element("figure", {}, open, element("figcaption", {}, element("strong", { title }, title), element("span", {}, text), saveButton(canvas, name)));
}

const MARKS = { source: "#ffffff", match: "#fde725" };

// Draws a ring, or a cross for a wrong match, that stands out on any image.
export function mark(context, x, y, size, colour = MARKS.source, shape = "ring") {
  for (const [width, style] of [[size / 2.2, "rgba(0,0,0,.75)"], [size / 5, colour]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.beginPath();
    if (shape === "ring") context.arc(x, y, size, 0, 2 * Math.PI);
    else {
      context.moveTo(x - size, y - size);
      context.lineTo(x + size, y + size);
      context.moveTo(x + size, y - size);
      context.lineTo(x - size, y + size);
    }
    context.stroke();
  }
}
