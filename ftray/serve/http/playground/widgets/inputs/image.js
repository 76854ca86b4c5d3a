// An input of kind image: a file that is chosen or dropped. The file itself is sent, in base64: never
// a URL.

import { make } from "../../dom.js";

const TYPES = "image/png,image/jpeg,image/webp,image/bmp,image/gif";
const LARGEST_MB = 24; // in base64 it takes a third more, and a request has at most 32 MiB
const SMALL = 96; // pixels below which a preview is enlarged

function sizeOf(bytes) {
  if (bytes < 1000) return bytes + " bytes";
  return bytes < 1e6 ? (bytes / 1e3).toFixed(1) + " kB" : (bytes / 1e6).toFixed(1) + " MB";
}

function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(new Error("the file cannot be read: " + file.name));
    reader.readAsDataURL(file);
  });
}

export const image = {
  isFile: true,
  holds: (value) => typeof value === "string",

  create(id) {
    const node = make("div"), label = make("label"), zone = make("div", undefined, "drop");
    const field = make("input"), preview = make("img"), about = make("p", "", "soft");
    label.htmlFor = field.id = id;
    field.type = "file";
    field.accept = TYPES;
    field.required = true;
    preview.alt = "the chosen image";
    preview.hidden = true;
    about.setAttribute("role", "status");
    zone.append(field, make("p", "or drop an image here", "soft"), preview, about);
    node.append(label, zone);

    function show() {
      URL.revokeObjectURL(preview.src);
      const [file] = field.files;
      preview.hidden = true;
      about.textContent = file ? sizeOf(file.size) : "";
      if (file) preview.src = URL.createObjectURL(file);
      else preview.removeAttribute("src");
    }
    preview.addEventListener("load", () => {
      const { naturalWidth: width, naturalHeight: height } = preview;
      preview.classList.toggle("small", Math.max(width, height) < SMALL);
      preview.hidden = false;
      about.textContent = `${width} × ${height} pixels, ${sizeOf(field.files[0].size)}`;
    });
    preview.addEventListener("error", () => {
      if (field.files.length) about.textContent += ", which this browser cannot show";
    });
    field.addEventListener("input", show);

    function take(file) {
      const list = new DataTransfer();
      list.items.add(file);
      field.files = list.files;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    zone.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", (event) => {
      if (!zone.contains(event.relatedTarget)) zone.classList.remove("over");
    });
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) take(file);
    });

    return {
      node,
      label,
      async read() {
        const [file] = field.files;
        if (file.size > LARGEST_MB * 1e6) {
          throw new Error(`${file.name} has ${sizeOf(file.size)}: at most ${LARGEST_MB} MB are sent`);
        }
        return base64(file);
      },
      write(value) {
        if (!value) { field.value = ""; show(); return; }
        const bytes = Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
        take(new File([bytes], "example"));
      },
      sample() {
        const [file] = field.files;
        return file && /^\w[\w-]*\.\w+$/.test(file.name) ? file.name : "image.png";
      },
      focus: () => field.focus(),
    };
  },

  thumbnail(value, name) {
    const node = make("img");
    node.src = "data:image/*;base64," + value;
    node.alt = name;
    return node;
  },
};
