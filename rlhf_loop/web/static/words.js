// The texts of scripts in the language of the page, which brings them by the English ones; an English page brings none.
"use strict";

const _ = (() => {
  const brought = document.querySelector("meta[name=words]");
  const words = brought ? JSON.parse(brought.content) : {};
  // As on the server, {name} in a text stands for a value.
  return (text, values = {}) => (words[text] || text).replace(/\{(\w+)\}/g, (place, name) => (name in values ? values[name] : place));
})();
