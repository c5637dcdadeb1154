// the clipboard of a page that was opened as a file may be closed to it: then the words are copied by selecting them
async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".command button");
  if (!button) return;
  button.textContent = (await copy(button.nextElementSibling)) ? "copied" : "press Ctrl+C";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

// a table that is wider than its box says so
const look = new ResizeObserver((entries) => {
  for (const { target } of entries) target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth;
});
document.querySelectorAll(".scroll").forEach((box) => look.observe(box));
