// From Prometheus's answers to the frames of a panel, as Grafana's data source and field overrides make them.
import {
  type DataFrame,
  type Field,
  FieldType,
  type GrafanaTheme2,
  formatLabels,
  getDisplayProcessor,
  getFieldDisplayName,
  standardTransformers,
  standardTransformersRegistry,
  stringToJsRegex,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';

type Labels = Record<string, string>;
interface Sample {
  metric: Labels;
  value?: [number, string];
  values?: Array<[number, string]>;
}
export interface Target {
  refId: string;
  format: string;
  legendFormat: string;
}
export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: Target[];
  transformations?: Array<{ id: string; options: unknown }>;
  fieldConfig: { defaults: Field['config']; overrides: Override[] };
  options: any;
  panels?: Panel[];
}
interface Override {
  matcher: { id: string; options: string };
  properties: Array<{ id: string; value: unknown }>;
}

const wanted = [
  standardTransformers.mergeTransformer,
  standardTransformers.filterFieldsByNameTransformer,
  standardTransformers.filterFieldsTransformer,
  standardTransformers.organizeFieldsTransformer,
  standardTransformers.orderFieldsTransformer,
  standardTransformers.renameFieldsTransformer,
  standardTransformers.renameByRegexTransformer,
];
standardTransformersRegistry.setInit(() =>
  wanted.map((info: any) => ({
    id: info.id,
    name: info.name,
    description: '',
    transformation: () => Promise.resolve(info),
    editor: () => null,
    imageDark: '',
    imageLight: '',
  }))
);

function legend(target: Target, metric: Labels): string {
  if (target.legendFormat === '__auto') {
    const { __name__: name = '', ...labels } = metric;
    return Object.keys(labels).length > 0 ? formatLabels(labels) : name || 'Value';
  }
  return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label: string) => metric[label] ?? '');
}

function seriesFrames(target: Target, answer: Sample[], step: number): DataFrame[] {
  return answer.map((sample) => {
    const points = sample.values ?? [sample.value!];
    return toDataFrame({
      refId: target.refId,
      fields: [
        {
          name: 'Time',
          type: FieldType.time,
          values: points.map(([seconds]) => Math.round(seconds * 1000)),
          config: { interval: step * 1000 },
        },
        {
          name: 'Value',
          type: FieldType.number,
          labels: sample.metric,
          values: points.map(([, value]) => Number(value)),
          config: { displayNameFromDS: legend(target, sample.metric) },
        },
      ],
    });
  });
}

function tableFrame(target: Target, answer: Sample[], alone: boolean): DataFrame {
  const labels = [...new Set(answer.flatMap((sample) => Object.keys(sample.metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: answer.map((sample) => sample.value![0] * 1000), config: {} },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: answer.map((sample) => sample.metric[label] ?? ''),
        config: {},
      })),
      {
        name: alone ? 'Value' : `Value #${target.refId}`,
        type: FieldType.number,
        values: answer.map((sample) => Number(sample.value![1])),
        config: {},
      },
    ],
  });
}

function matches(override: Override, field: Field, frame: DataFrame, frames: DataFrame[]): boolean {
  const name = getFieldDisplayName(field, frame, frames);
  if (override.matcher.id === 'byRegexp') {
    return stringToJsRegex(override.matcher.options).test(name);
  }
  return override.matcher.id === 'byName' && (name === override.matcher.options || field.name === override.matcher.options);
}

function put(target: any, path: string, value: unknown) {
  const parts = path.split('.');
  const last = parts.pop()!;
  for (const part of parts) {
    target = target[part] = { ...target[part] };
  }
  target[last] = value;
}

/** Frames of the panel, transformed, with every field's settings and display in place. */
export async function frames(
  panel: Panel,
  answers: Record<string, Sample[]>,
  step: number,
  theme: GrafanaTheme2
): Promise<DataFrame[]> {
  const targets = panel.targets ?? [];
  const answered = targets.filter((target) => (answers[target.refId] ?? []).length > 0);
  const raw = answered.flatMap((target) =>
    target.format === 'table'
      ? [tableFrame(target, answers[target.refId], answered.length === 1)]
      : seriesFrames(target, answers[target.refId], step)
  );
  const made = await firstValueFrom(transformDataFrame((panel.transformations ?? []) as any, raw));
  let index = 0;
  // As Grafana has it: without limits of its own a bar is measured by the largest number of the panel.
  const numbers = made
    .flatMap((frame) => frame.fields)
    .filter((field) => field.type === FieldType.number)
    .flatMap((field) => field.values.filter((value: number | null) => value !== null && !Number.isNaN(value)));
  for (const frame of made) {
    for (const field of frame.fields) {
      const plain = field.type === FieldType.time ? {} : structuredClone(panel.fieldConfig.defaults);
      const config: any = { ...plain, ...field.config, custom: { ...(plain as any).custom } };
      for (const override of panel.fieldConfig.overrides) {
        if (matches(override, field, frame, made)) {
          override.properties.forEach(({ id, value }) => put(config, id, value));
        }
      }
      field.config = config;
      if (field.type === FieldType.number) {
        const min = config.min ?? Math.min(...numbers);
        const max = config.max ?? Math.max(...numbers);
        field.state = { ...field.state, seriesIndex: index++, range: { min, max, delta: max - min } };
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
      field.getLinks = () => [];
    }
  }
  return made;
}
