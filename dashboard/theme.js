// Before the first paint, and therefore not a module: light or dark, as chosen, else as the system says.
(() => {
  try {
    const theme = localStorage.getItem("tollgate.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is off: the system's choice holds.
  }
})();
