// State timelines and status histories. Grafana draws these with a plugin that is not published; here they are plain SVG.
import { type DataFrame, FieldType, type TimeRange, dateTimeFormat, getFieldDisplayName } from '@grafana/data';
import { useTheme2 } from '@grafana/ui';

interface Props {
  data: DataFrame[];
  width: number;
  height: number;
  range: TimeRange;
  step: number;
  options: any;
  merge: boolean;
}

export function Strips({ data, width, height, range, step, options, merge }: Props) {
  const theme = useTheme2();
  const rows = data.flatMap((frame) => {
    const time = frame.fields.find((field) => field.type === FieldType.time);
    return time
      ? frame.fields
          .filter((field) => field.type === FieldType.number)
          .map((field) => ({ name: getFieldDisplayName(field, frame, data), field, time: time.values as number[] }))
      : [];
  });
  const left = Math.min(width * 0.3, 16 + 6.8 * Math.max(0, ...rows.map((row) => row.name.length)));
  const bottom = 20;
  const high = (height - bottom) / Math.max(1, rows.length);
  const from = range.from.valueOf();
  const to = range.to.valueOf();
  const x = (moment: number) => left + ((moment - from) / (to - from)) * (width - left - 8);
  const ticks = Array.from({ length: 7 }, (_, number) => from + ((to - from) * number) / 6);
  return (
    <svg width={width} height={height} fontFamily={theme.typography.fontFamily} fontSize={12}>
      {rows.map((row, line) => {
        const top = line * high + (high * (1 - options.rowHeight)) / 2;
        const runs: Array<{ start: number; end: number; value: number }> = [];
        row.time.forEach((moment, position) => {
          const value = row.field.values[position];
          const latest = runs[runs.length - 1];
          if (merge && latest && latest.value === value && moment - latest.end < step * 1500) {
            latest.end = moment + step * 1000;
          } else {
            runs.push({ start: moment, end: moment + step * 1000, value });
          }
        });
        return (
          <g key={row.name + line}>
            <text x={left - 8} y={line * high + high / 2 + 4} textAnchor="end" fill={theme.colors.text.primary}>
              {row.name}
            </text>
            {runs.map((run) => {
              const shown = row.field.display!(run.value);
              const start = Math.max(x(run.start), left);
              const wide = Math.max(1, x(Math.min(run.end, to)) - start - (merge ? 0 : 0.5));
              return (
                <g key={run.start}>
                  <rect x={start} y={top} width={wide} height={high * options.rowHeight} fill={shown.color} opacity={0.85} />
                  {options.showValue !== 'never' && wide > 8 * shown.text.length && (
                    <text x={start + 6} y={line * high + high / 2 + 4} fill="#fff">
                      {shown.text}
                    </text>
                  )}
                </g>
              );
            })}
          </g>
        );
      })}
      {ticks.map((tick) => (
        <text key={tick} x={x(tick)} y={height - 4} textAnchor={tick === to ? 'end' : 'middle'} fill={theme.colors.text.secondary}>
          {dateTimeFormat(tick, { format: 'HH:mm', timeZone: 'utc' })}
        </text>
      ))}
    </svg>
  );
}
