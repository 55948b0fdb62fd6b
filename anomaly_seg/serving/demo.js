"use strict";
// What the page decides in the browser, so that no late answer replaces what the user has chosen or typed since.
const demo = {
  choice: 0, // number of the newest image chosen
  sampleSinceDrop: false, // a sample was chosen after the last file was dropped, which may still be on its way here

  chooseSample() {
    demo.sampleSinceDrop = true;
    return ++demo.choice;
  },

  // Number of a file that has arrived; 0 if the user has chosen a sample in the meantime.
  chooseFile: () => (demo.sampleSinceDrop ? 0 : ++demo.choice),

  // Values of problem and, for each model, verdict, slider and pictures: none if a newer image was chosen.
  show(answer, ...thresholds) {
    if (answer?.number !== demo.choice) return [];
    const update = (properties) => ({ __type__: "update", ...properties });
    const columns = answer.models.flatMap(({ score, pictures, ends }, i) => [
      score, // the value of the verdict
      update({ // the threshold stays what it is, and inside
        step: ends.step,
        minimum: Math.min(ends.minimum, thresholds[i]),
        maximum: Math.max(ends.maximum, thresholds[i]),
      }),
      pictures,
    ]);
    return [answer.problem, ...columns];
  },

  // Update of a verdict. A field that was just emptied holds no threshold yet.
  judgeAnew: (threshold) => (threshold === null ? undefined : { __type__: "update", props: { threshold } }),

  // So many digits that count, and all of a large number's: people compare these, and exponents hide what differs.
  format(value, digits = 4) {
    if (digits === 4 && Math.abs(value) < 5e-4) return "0";
    return Math.abs(value) < 10 ** digits ? String(Number(value.toPrecision(digits))) : value.toFixed(0);
  },

  // Green or red, or nothing judged yet (no score). The words and the sign say it too, not the colour alone.
  verdict(score, threshold) {
    if (typeof score !== "number") {
      return "<div class='verdict none'><b>No image yet</b><span>Drop one, or choose a sample.</span></div>";
    }
    const [kind, sign, sense] =
      score > threshold ? ["defective", "✕ Defective", "above"] : ["good", "✓ Good", "not above"];
    const digits = demo.format(score) === demo.format(threshold) ? 9 : 4; // so that the sentence does not look wrong
    const words = `score ${demo.format(score, digits)} is ${sense} the threshold ${demo.format(threshold, digits)}`;
    return `<div class='verdict ${kind}' role='status'><b>${sign}</b><span>${words}</span></div>`;
  },
};

for (const event of ["change", "drop"]) {
  addEventListener(event, (e) => { if (e.target.closest("#upload")) demo.sampleSinceDrop = false; }, true);
}
// Gradio's slider cuts a number typed beside it to the slider's ends when the field loses the focus. They depend on
// the score, which may still be on its way, so the number stays as typed.
addEventListener("blur", (e) => { if (e.target.matches?.("#desk input[type=number]")) e.stopPropagation(); }, true);
