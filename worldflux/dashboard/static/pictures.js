// The newest frames of the environment at their own pace, and the imagination as a short film.

const $ = (id) => document.getElementById(id);
const LATE = 24; // frames that may wait before playback hurries
const FILM_MS = 160;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Gameplay {
  constructor(canvas, empty, note) {
    Object.assign(this, { canvas, empty, note, waiting: [], shown: null, timer: null, fps: 8 });
    this.forget();
  }

  forget() {
    this.seq = -1;
    this.waiting = [];
  }

  /** An answer of /api/gameplay. */
  take(answer) {
    const first = this.seq < 0;
    this.seq = answer.latest_seq;
    if (answer.status === "unavailable") {
      const why = answer.detail && !answer.detail.includes("disabled") ? `: ${answer.detail}` : "";
      this.empty.textContent = answer.detail?.includes("disabled") ? "The gameplay stream is switched off" : `No frames${why}`;
      this.empty.hidden = this.shown !== null;
      this.note.textContent = "";
      return;
    }
    this.fps = answer.fps || 8;
    // The first answer holds what was seen before the page was opened: its end is enough.
    this.waiting.push(...(first ? answer.frames.slice(-this.fps) : answer.frames));
    if (!this.timer) this.next();
  }

  next() {
    const frame = this.waiting.shift();
    if (!frame) {
      this.timer = null;
      return;
    }
    const image = new Image();
    image.onload = () => this.draw(image, frame);
    image.src = `data:image/jpeg;base64,${frame.jpeg_b64}`;
    const pace = 1000 / this.fps / (this.waiting.length > LATE ? 2 : 1);
    this.timer = setTimeout(() => this.next(), pace);
  }

  draw(image, frame) {
    this.shown = frame;
    this.empty.hidden = true;
    if (this.canvas.width !== frame.width || this.canvas.height !== frame.height) {
      this.canvas.width = frame.width;
      this.canvas.height = frame.height;
      this.canvas.classList.toggle("pixels", frame.width < 160);
    }
    this.canvas.getContext("2d").drawImage(image, 0, 0);
    const episode = (frame.episode + 1).toLocaleString("en-US");
    this.note.textContent = `episode ${episode} · step ${frame.episode_step}${frame.done ? " · end" : ""}`;
    this.canvas.dataset.seq = frame.seq;
  }

  /** No more frames will come. */
  still(summary) {
    if (this.shown === null && summary && !summary.gameplay_available && this.empty.textContent === "No frames yet") this.empty.textContent = "No frames were taken";
  }
}

export class Film {
  constructor() {
    Object.assign(this, { films: [], name: null, image: null, at: 0, playing: !calm.matches });
    $("play").addEventListener("click", () => this.toggle());
    $("scrub").addEventListener("input", () => { this.playing = false; this.at = Number($("scrub").value); this.draw(); this.shape(); });
    setInterval(() => this.tick(), FILM_MS);
    new ResizeObserver(() => this.fit()).observe($("imagination-stage"));
    this.shape();
  }

  /** The index of /api/imagination. */
  take(pictures) {
    this.films = pictures;
    if (!pictures.length) return;
    const chosen = pictures.find((p) => p.name === this.name) || pictures.find((p) => p.frames > 1) || pictures.find((p) => !p.name.endsWith("/reward")) || pictures[0];
    const names = pictures.map((p) => p.name);
    const buttons = pictures.length < 2 ? [] : names.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name.split("/").at(-1) });
      button.setAttribute("role", "radio");
      button.dataset.name = name;
      button.addEventListener("click", () => this.show(this.films.find((p) => p.name === name)));
      return button;
    });
    $("pictures").replaceChildren(...buttons);
    this.show(chosen);
  }

  show(picture) {
    this.name = picture.name;
    for (const button of $("pictures").children) button.setAttribute("aria-checked", String(button.dataset.name === picture.name));
    const image = new Image();
    image.onload = () => {
      this.image = image;
      this.picture = picture;
      const moving = picture.frames > 1;
      $("film").hidden = !moving;
      $("film").querySelector("ol").hidden = picture.name.startsWith("videos/"); // one row, of the real world
      $("plot").hidden = moving;
      $("imagination-empty").hidden = true;
      $("play").hidden = $("scrub").hidden = !moving;
      $("player").classList.toggle("on", moving || this.films.length > 1);
      $("imagination-note").textContent = `at update ${picture.step.toLocaleString("en-US")}`;
      if (moving) {
        Object.assign($("imagination"), { width: picture.width, height: picture.height });
        $("imagination").classList.toggle("pixels", picture.width < 300);
        this.fit();
        $("scrub").max = picture.frames - 1;
        this.at %= picture.frames;
        this.draw();
      } else $("plot").src = image.src;
    };
    image.src = `/api/imagination/${picture.name}?seq=${picture.seq}`;
  }

  /** As large as the stage allows, with the names of its three rows beside it. */
  fit() {
    if (!this.picture) return;
    const stage = $("imagination-stage");
    const names = $("film").querySelector("ol");
    const scale = Math.min((stage.clientWidth - 2 * names.offsetWidth) / this.picture.width, (stage.clientHeight - 16) / this.picture.height);
    const height = `${Math.floor(scale * this.picture.height)}px`;
    Object.assign($("imagination").style, { width: `${Math.floor(scale * this.picture.width)}px`, height });
    names.style.height = height;
  }

  draw() {
    const { width, height } = this.picture;
    $("imagination").getContext("2d").drawImage(this.image, 0, this.at * height, width, height, 0, 0, width, height);
    $("scrub").value = this.at;
  }

  tick() {
    if (!this.playing || document.hidden || !this.picture || this.picture.frames < 2) return;
    this.at = (this.at + 1) % this.picture.frames;
    this.draw();
  }

  toggle() {
    this.playing = !this.playing;
    this.shape();
  }

  shape() {
    $("play-shape").setAttribute("d", this.playing ? "M6 4h3v12H6zM11 4h3v12h-3z" : "M6 4l10 6-10 6z");
    $("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
  }

  /** What stands there while there is no picture. */
  explain(summary) {
    if (this.films.length) return;
    let why = "The first pictures come with the first evaluation";
    if (summary.model_type === "tdmpc2") why = "TD-MPC2 imagines in its latent space and has no decoder: there are no pictures to show";
    else if (summary.eval_interval) why += ` (update ${summary.eval_interval.toLocaleString("en-US")})`;
    else if (summary.eval_interval === null) why = "Pictures come with evaluations, and this run has none";
    if ($("imagination-empty").textContent !== why) $("imagination-empty").textContent = why;
  }
}
