// MessagePack as the server writes results: nil, booleans, numbers, strings, binary, arrays, maps. No extension types.
// https://github.com/msgpack/msgpack/blob/master/spec.md

const text = new TextDecoder("utf-8", { fatal: true });

/**
 * Decode one document. Throws an Error where it is not valid. Binary values are views into `buffer`.
 * @param {ArrayBuffer} buffer
 * @returns {any}
 */
export function decode(buffer) {
  const view = new DataView(buffer);
  let at = 0;

  /** @param {number} size  bytes */
  const take = (size) => {
    if (at + size > view.byteLength) throw new Error("The MessagePack document is truncated.");
    at += size;
    return at - size;
  };
  /**
   * @param {"Uint8" | "Uint16" | "Uint32" | "Int8" | "Int16" | "Int32" | "Float32" | "Float64"} kind
   * @param {number} size  bytes
   */
  const read = (kind, size) => view[/** @type {const} */ (`get${kind}`)](take(size));
  /** @param {"BigUint64" | "BigInt64"} kind */
  const long = (kind) => Number(view[/** @type {const} */ (`get${kind}`)](take(8)));
  /** @param {number} size */
  const bytes = (size) => new Uint8Array(buffer, take(size), size);
  /** @param {number} size */
  const string = (size) => text.decode(bytes(size));
  /** @param {number} size */
  const array = (size) => Array.from({ length: size }, value);
  /** @param {number} size */
  const map = (size) => {
    const entries = [];
    for (let i = 0; i < size; i += 1) entries.push([value(), value()]);
    return Object.fromEntries(entries);
  };
  /** @type {Record<number, () => unknown>} */
  // prettier-ignore
  const wide = {
    0xc0: () => null, 0xc2: () => false, 0xc3: () => true,
    0xc4: () => bytes(read("Uint8", 1)), 0xc5: () => bytes(read("Uint16", 2)), 0xc6: () => bytes(read("Uint32", 4)),
    0xca: () => read("Float32", 4), 0xcb: () => read("Float64", 8),
    0xcc: () => read("Uint8", 1), 0xcd: () => read("Uint16", 2), 0xce: () => read("Uint32", 4), 0xcf: () => long("BigUint64"),
    0xd0: () => read("Int8", 1), 0xd1: () => read("Int16", 2), 0xd2: () => read("Int32", 4), 0xd3: () => long("BigInt64"),
    0xd9: () => string(read("Uint8", 1)), 0xda: () => string(read("Uint16", 2)), 0xdb: () => string(read("Uint32", 4)),
    0xdc: () => array(read("Uint16", 2)), 0xdd: () => array(read("Uint32", 4)),
    0xde: () => map(read("Uint16", 2)), 0xdf: () => map(read("Uint32", 4)),
  };

  /** @returns {unknown} */
  function value() {
    const kind = read("Uint8", 1);
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 0x0f);
    if (kind < 0xa0) return array(kind & 0x0f);
    if (kind < 0xc0) return string(kind & 0x1f);
    if (kind >= 0xe0) return kind - 0x100;
    if (!(kind in wide)) throw new Error(`MessagePack type 0x${kind.toString(16)} is not supported.`);
    return wide[kind]();
  }

  const document = value();
  if (at !== view.byteLength) throw new Error("The MessagePack document has trailing bytes.");
  return document;
}
