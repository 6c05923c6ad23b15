/** Keeps values in sessionStorage or localStorage, or in memory where the browser blocks both. */

const memory = {};

export function recall(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name)) ?? undefined;
  } catch {
    return memory[name];
  }
}

export function remember(storage, name, value) {
  memory[name] = value;
  try {
    window[storage].setItem(name, JSON.stringify(value));
  } catch {
    // Blocked, or full.
  }
}

export function forget(storage, name) {
  delete memory[name];
  try {
    window[storage].removeItem(name);
  } catch {
    // Blocked.
  }
}
