// What the JavaScript checks share: one line for each check, and an exit code.

import assert from "node:assert/strict";

export { assert };

const patienceMs = 30_000;
let number = 0;
let failed = 0;

/** Runs one check; it fails when `body` throws or does not end in time. */
export async function check(name, body) {
  number += 1;
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${patienceMs} ms`)), patienceMs);
  });
  try {
    await Promise.race([body(), late]);
    console.log(`ok ${number} - ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${number} - ${name}`);
    console.log(`    ${String(error?.stack ?? error).split("\n").slice(0, 12).join("\n    ")}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Ends the process: 1 when a check failed or none was made. */
export function finish() {
  console.log(`1..${number}`);
  process.exit(failed > 0 || number === 0 ? 1 : 0);
}

/** A needed environment variable. */
export function env(name) {
  const value = process.env[name];
  if (!value) {
    console.log(`not ok - ${name} is not set`);
    process.exit(1);
  }
  return value;
}

/** Waits until `probe` gives something else than undefined. */
export async function until(what, probe, limitMs = 20_000) {
  const end = Date.now() + limitMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`no ${what} within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
