// halves to the even number
const whole = (x) => {
  const down = Math.floor(x);
  return x - down === 0.5 ? down + (down % 2) : Math.round(x);
};

// bilinear with antialiasing along one axis; values are (outer, from, inner)
function resized(values, outer, from, to, inner) {
  const result = new Float32Array(outer * to * inner);
  const support = Math.max(1, from / to);
  for (let i = 0; i < to; i++) {
    const centre = ((i + 0.5) * from) / to;
    const first = Math.max(0, Math.floor(centre - support));
    const end = Math.min(from, Math.ceil(centre + support));
    const weights = [];
    for (let j = first; j < end; j++) {
      weights.push(Math.max(0, 1 - Math.abs(j + 0.5 - centre) / support));
    }
    const sum = weights.reduce((a, b) => a + b);
    for (let o = 0; o < outer; o++) {
      for (let k = 0; k < inner; k++) {
        let value = 0;
        weights.forEach((weight, n) => {
          value += (weight / sum) * values[(o * from + first + n) * inner + k];
        });
        result[(o * to + i) * inner + k] = value;
      }
    }
  }
  return result;
}

// the input of the model, rows of R, G, B, from decoded pixels of the same order
function view(pixels, height, width, rule) {
  const shorter = Math.min(height, width);
  const [high, wide] = [height, width].map((side) => whole((side * rule.shorter_side) / shorter));
  const narrow = resized(pixels, height, width, wide, 3);
  const small = resized(narrow, 1, height, high, wide * 3);
  const top = Math.floor((high - rule.height) / 2);
  const left = Math.floor((wide - rule.width) / 2);
  const image = new Float32Array(rule.height * rule.width * 3);
  for (let row = 0; row < rule.height; row++) {
    const start = ((top + row) * wide + left) * 3;
    image.set(small.subarray(start, start + rule.width * 3).map(whole), row * rule.width * 3);
  }
  return image;
}
