/** Numbers and times in words. */

const STEPS = [
  [60, "second"],
  [60, "minute"],
  [24, "hour"],
  [30, "day"],
  [12, "month"],
  [Infinity, "year"],
];

/** 5231 as "1 hour". */
export function age(seconds) {
  let value = seconds;
  for (const [size, unit] of STEPS) {
    if (value < size) return count(Math.max(0, Math.floor(value)), unit);
    value /= size;
  }
  return "";
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Three figures that matter: 0.0123, 1.23, 12.3, 1,230. */
export function figures(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  const decimals = Math.max(0, digits - Math.ceil(Math.log10(Math.abs(value) + 1e-12) + 1e-9));
  return value
    .toLocaleString("en", {
      minimumFractionDigits: Math.min(decimals, 4),
      maximumFractionDigits: Math.min(decimals, 4),
    })
    .replace("-", "−");
}

/** With its sign, always: +0.41, −0.12. */
export const signed = (value, digits = 3) => (value > 0 ? "+" : "") + figures(value, digits);

export const list = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;

export const day = (text) =>
  new Date(text).toLocaleDateString("en-GB", { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
