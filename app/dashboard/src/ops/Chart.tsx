/** A chart over time with axes, units and a tooltip; the table behind it says the same to everyone. */

import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import uPlot from "uplot";

import { useTheme } from "../feel/theme";
import { local, utc } from "../feel/words";

export interface Line {
  label: string;
  /** A custom property of the style sheet. */
  colour: "--busy" | "--bad" | "--good" | "--warn" | "--accent";
  kind: "bars" | "line";
  values: (number | null)[];
}

interface Props {
  title: string;
  unit: string;
  /** Seconds since 1970. */
  times: number[];
  /** Seconds from one to the next; half of it is left free on either side. */
  step: number;
  lines: readonly Line[];
  say: (value: number) => string;
  when: (seconds: number) => string;
  /** The times begin days, weeks or months in UTC, not the reader's own. */
  inUtc?: boolean;
  children: ReactNode;
}

const HEIGHT = 220;

export default function Chart({ title, unit, times, step, lines, say, when, inUtc = false, children }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const tip = useRef<HTMLDivElement>(null);
  const theme = useTheme();
  const system = useSystemDark();
  const id = useId();

  useEffect(() => {
    const box = place.current;
    const bubble = tip.current;
    if (box === null || bubble === null) return undefined;
    const colour = colourOf(box);
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--muted"), grid, ticks: grid, font: "12px monospace" };
    const plot = new uPlot(
      {
        width: box.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
        ...(inUtc ? { tzDate: (seconds: number) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") } : {}),
        scales: {
          x: { range: () => [(times[0] ?? 0) - step / 2, (times.at(-1) ?? 1) + step / 2] },
          y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] },
        },
        axes: [
          { ...axis, space: 90, values: (_, ticks, __, ___, apart) => ticks.map((tick) => tickText(tick, apart, inUtc ? utc : local)) },
          { ...axis, size: 88, label: unit, labelFont: "12px monospace", labelSize: 20, labelGap: 4, values: (_, ticks) => ticks.map(say) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: colour(line.colour),
            width: 1.5,
            points: { show: line.kind === "line", size: 4, fill: colour(line.colour) },
            ...(line.kind === "bars" ? { fill: colour(line.colour), paths: uPlot.paths.bars?.({ size: [0.8, 40] }) as uPlot.Series.PathBuilder } : {}),
          })),
        ],
        hooks: {
          setCursor: [
            ({ cursor: { idx, left = -1 } }) => {
              const time = idx === null || idx === undefined ? undefined : times[idx];
              bubble.hidden = left < 0 || time === undefined;
              if (bubble.hidden || time === undefined || idx === null || idx === undefined) return;
              const figures = lines.map((line) => {
                const value = line.values[idx];
                return `${line.label}: ${value === null || value === undefined ? "–" : say(value)}`;
              });
              bubble.textContent = [when(time), ...figures].join("\n");
              const beside = left + 90 > box.clientWidth - 180 ? left - 120 : left + 90;
              bubble.style.transform = `translateX(${Math.max(0, beside)}px)`;
            },
          ],
        },
      },
      [times, ...lines.map((line) => line.values)],
      box,
    );
    const fit = new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: HEIGHT }));
    fit.observe(box);
    // What it covers can be seen without moving the mouse away.
    const dismiss = ({ key }: KeyboardEvent) => {
      if (key === "Escape") bubble.hidden = true;
    };
    document.addEventListener("keydown", dismiss);
    return () => {
      document.removeEventListener("keydown", dismiss);
      fit.disconnect();
      plot.destroy();
    };
  }, [times, step, lines, unit, say, when, inUtc, theme, system]);

  return (
    <figure className="chart" aria-labelledby={id}>
      <figcaption id={id}>
        {title} <span className="muted">{unit}</span>
        <span className="legend">
          {lines.map((line) => (
            <span key={line.label}>
              <span aria-hidden="true" className={`swatch ${line.kind} ${line.colour.slice(2)}`} /> {line.label}
            </span>
          ))}
        </span>
      </figcaption>
      <div className="plot" aria-hidden="true" ref={place}>
        <div className="tip" ref={tip} hidden />
      </div>
      <details>
        <summary>The figures of “{title}” as a table</summary>
        <div className="scroll" tabIndex={0} role="region" aria-label={`The figures of ${title}`}>
          {children}
        </div>
      </details>
    </figure>
  );
}

/** As much of a moment as the distance between two ticks needs. */
function tickText(seconds: number, apart: number, say: (iso: string) => string): string {
  const text = say(new Date(seconds * 1000).toISOString());
  if (apart < 86_400) return text.slice(11, 19) === "00:00:00" ? text.slice(5, 10) : text.slice(11, 16);
  return apart < 28 * 86_400 ? text.slice(5, 10) : text.slice(0, 7);
}

/** What a custom property comes to just now, light-dark() and all. */
function colourOf(box: HTMLElement): (name: string) => string {
  const probe = document.createElement("span");
  return (name) => {
    box.append(probe);
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
}

function useSystemDark(): boolean {
  const [query] = useState(() => window.matchMedia("(prefers-color-scheme: dark)"));
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const listen = () => setDark(query.matches);
    query.addEventListener("change", listen);
    return () => query.removeEventListener("change", listen);
  }, [query]);
  return dark;
}
