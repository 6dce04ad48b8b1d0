// The story of `calls.py`, played by whatever TypeScript SDK the folder of this script has in node_modules.
//
//     node story.mjs '{"url": …, "prefixed_url": …, "key": …, "other_key": …, "workspace": …, "other_workspace": …}'
//
// prints {"sdk": "1.12.0", "calls": {"messages.create": "yes", …}}. What an SDK lacks is found by looking.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import Anthropic from '@anthropic-ai/sdk';

const { url, prefixed_url, key, other_key, workspace, other_workspace } = JSON.parse(process.argv[2]);
const MODEL = 'claude-sonnet-5-5';
const BRIEF = 1; // tokens of an answer that is there almost at once
const LONG = 24; // tokens of an answer that takes a second: the server of these stories is slow on purpose
const LONGEST = 96; // tokens of an answer that is still on its way after a few more calls
const MANY = 120;
const ENOUGH = 500; // more than any list here holds: a walk that gets there would never stop
const END_MS = 90_000;
const BETA = 'message-batches-2024-09-24';
const DAY_MS = 24 * 3600 * 1000;
const NOT_OFFERED = Symbol('this SDK has no such call');

const client = (changes = {}) =>
  new Anthropic({ baseURL: url, apiKey: key, authToken: null, maxRetries: 0, timeout: 60_000, ...changes });

const story = {
  // --- message batches

  async 'messages.batches.create'() {
    const batch = await client().messages.batches.create({ requests: items(3) });

    assert.equal(batch.type, 'message_batch');
    assert.equal(batch.processing_status, 'in_progress');
    assert.deepEqual(batch.request_counts, { processing: 3, succeeded: 0, errored: 0, canceled: 0, expired: 0 });
    assert.equal(Date.parse(batch.expires_at) - Date.parse(batch.created_at), DAY_MS);
    assert.match(batch.created_at, /Z$/);
    assert.deepEqual([batch.ended_at, batch.cancel_initiated_at, batch.archived_at, batch.results_url], Array(4).fill(null));
  },

  async 'messages.batches.create, faults'() {
    const { batches } = client().messages;
    const [one] = items(1);
    for (const [requests, words] of [
      [[], 'requests: List should have at least 1 item after validation, not 0'],
      [[one, one], "custom_id's must be unique within a batch. Duplicate custom_id found: item-0"],
      [[{ ...one, custom_id: 'some body' }], 'requests.0.custom_id: String should match pattern'],
    ]) {
      const said = await refused(Anthropic.BadRequestError, 'invalid_request_error', () => batches.create({ requests }));
      assert.ok(said.includes(words), said);
    }
  },

  async 'messages.batches.retrieve'() {
    const { batches } = client().messages;
    const batch = await batches.create({ requests: items(3) });

    const atOnce = await batches.retrieve(batch.id);
    assert.deepEqual([atOnce.id, atOnce.created_at, atOnce.expires_at], [batch.id, batch.created_at, batch.expires_at]);

    const ended = await untilEnded(batches, batch.id);
    assert.deepEqual(ended.request_counts, { processing: 0, succeeded: 3, errored: 0, canceled: 0, expired: 0 });
    assert.equal(ended.results_url, `${url}/v1/messages/batches/${batch.id}/results`);
    assert.ok(ended.created_at <= ended.ended_at && ended.ended_at <= ended.expires_at);
  },

  async 'messages.batches.results'() {
    const { batches } = client().messages;
    const broken = { custom_id: 'broken', params: { model: MODEL, max_tokens: BRIEF } };
    const batch = await batches.create({ requests: [...items(3), broken] });
    assert.equal((await untilEnded(batches, batch.id)).request_counts.errored, 1);

    const rows = new Map();
    for await (const row of await batches.results(batch.id)) rows.set(row.custom_id, row.result);
    checkRows(rows);
  },

  async 'messages.batches.results, too early'() {
    const { batches } = client().messages;
    const batch = await batches.create({ requests: items(MANY, LONG) });
    await raised(Anthropic.AnthropicError, () => batches.results(batch.id));

    const path = `/v1/messages/batches/${batch.id}/results`;
    const said = await refused(Anthropic.NotFoundError, 'not_found_error', () => client().get(path));
    assert.equal(said, `Message Batch ${batch.id} has no available results.`);
    await batches.cancel(batch.id);
  },

  async 'messages.batches.list'() {
    const { batches } = client().messages;
    const first = (await batches.create({ requests: items(1) })).id;
    const second = (await batches.create({ requests: items(1) })).id;

    const page = await batches.list({ limit: 1 });
    assert.deepEqual([ids(page.data), page.first_id, page.last_id, page.has_more], [[second], second, second, true]);
    for (const query of [{}, { limit: 1000 }]) {
      assert.deepEqual(ids((await batches.list(query)).data).slice(0, 2), [second, first]);
    }
    for (const limit of [0, 1001]) {
      const said = await refused(Anthropic.BadRequestError, 'invalid_request_error', () => batches.list({ limit }));
      assert.ok(said.includes('limit: Input'), said);
    }
  },

  async 'messages.batches.list, forwards'() {
    const { batches } = client().messages;
    const made = [];
    for (let n = 0; n < 5; n++) made.push((await batches.create({ requests: items(1) })).id);

    const walked = await walk(batches.list({ limit: 2 }));

    assert.deepEqual(walked.slice(0, 5), [...made].reverse());
    assert.equal(new Set(walked).size, walked.length);
    assert.deepEqual(walked, await walk(batches.list({ limit: 1000 })));
    assert.deepEqual(await walk(batches.list({ limit: 2, after_id: made.at(-1) })), walked.slice(1));
  },

  async 'messages.batches.list, backwards'() {
    const { batches } = client().messages;
    for (let n = 0; n < 5; n++) await batches.create({ requests: items(1) });
    const everything = await walk(batches.list({ limit: 1000 }));
    const oldest = everything.at(-1);

    for (const limit of [2, 3, 1000]) {
      const walked = await walk(batches.list({ limit, before_id: oldest }));
      assert.equal(new Set(walked).size, walked.length);
      walked.sort((a, b) => everything.indexOf(a) - everything.indexOf(b));
      assert.deepEqual(walked, everything.slice(0, -1));
    }
    const nearest = await batches.list({ limit: 2, before_id: oldest });
    assert.deepEqual(ids(nearest.data), everything.slice(-3, -1));
  },

  async 'messages.batches.cancel'() {
    const { batches } = client().messages;
    const batch = await batches.create({ requests: items(MANY, LONGEST) });

    const canceled = await batches.cancel(batch.id);
    assert.deepEqual([canceled.id, canceled.processing_status, canceled.results_url], [batch.id, 'canceling', null]);
    assert.equal((await batches.cancel(batch.id)).cancel_initiated_at, canceled.cancel_initiated_at);

    const ended = await untilEnded(batches, batch.id);
    const kinds = new Map();
    for await (const row of await batches.results(batch.id)) kinds.set(row.custom_id, row.result.type);
    assert.deepEqual(new Set(kinds.keys()), new Set(items(MANY).map((each) => each.custom_id)));
    assert.equal([...kinds.values()].filter((kind) => kind === 'canceled').length, ended.request_counts.canceled);
    assert.ok(ended.request_counts.canceled > 0);
    await refused(Anthropic.BadRequestError, 'invalid_request_error', () => batches.cancel(batch.id));
  },

  async 'messages.batches.delete'() {
    const { batches } = client().messages;
    if (!batches.delete) return NOT_OFFERED;
    const running = (await batches.create({ requests: items(MANY, LONG) })).id;
    const said = await refused(Anthropic.BadRequestError, 'invalid_request_error', () => batches.delete(running));
    assert.ok(said.includes('cannot be deleted'), said);
    await batches.cancel(running);

    const { id } = await batches.create({ requests: items(1) });
    await untilEnded(batches, id);
    assert.deepEqual(plain(await batches.delete(id)), { id, type: 'message_batch_deleted' });
    for (const again of ['retrieve', 'results', 'cancel', 'delete']) {
      await refused(Anthropic.NotFoundError, 'not_found_error', () => batches[again](id));
    }
    assert.ok(!(await walk(batches.list({ limit: 1000 }))).includes(id));
  },

  // --- messages and models

  async 'messages.create'() {
    checkMessage(await client().messages.create(question(LONG)));
  },

  async 'messages.create, faults'() {
    const { messages } = client();
    const ask = (changes) => () => messages.create({ ...question(), ...changes });
    await refused(Anthropic.BadRequestError, 'invalid_request_error', ask({ messages: [] }));
    await refused(Anthropic.NotFoundError, 'not_found_error', ask({ model: 'nobody-serves-this' }));
  },

  async 'messages.create, streamed'() {
    const events = [];
    for await (const event of await client().messages.create({ ...question(LONG), stream: true })) events.push(event);

    const deltas = events.filter((event) => event.type === 'content_block_delta');
    const kinds = events.filter((event) => event.type !== 'content_block_delta').map((event) => event.type);
    assert.deepEqual(kinds, ['message_start', 'content_block_start', 'content_block_stop', 'message_delta', 'message_stop']);
    const text = deltas.map((event) => event.delta.text).join('');
    assert.equal(text, (await client().messages.create(question(LONG))).content[0].text);
  },

  async 'messages.stream'() {
    await checkStream(client().messages);
  },

  async 'messages.count_tokens'() {
    await checkCount(client().messages);
  },

  async 'models.list'() {
    await checkModels(client().models);
  },

  async 'beta.messages.batches'() {
    const { batches } = client().beta.messages;
    const batch = await batches.create({ requests: items(3), betas: [BETA] });
    await untilEnded(batches, batch.id);
    const kinds = new Set();
    for await (const row of await batches.results(batch.id)) kinds.add(row.result.type);
    assert.deepEqual([...kinds], ['succeeded']);

    const running = (await batches.create({ requests: items(MANY, LONG) })).id;
    assert.equal((await batches.cancel(running)).processing_status, 'canceling');
    assert.deepEqual((await walk(batches.list({ limit: 1 }))).slice(0, 2), [running, batch.id]);
    if (batches.delete) {
      assert.equal((await batches.delete(batch.id, { betas: [BETA] })).type, 'message_batch_deleted');
      await refused(Anthropic.NotFoundError, 'not_found_error', () => batches.retrieve(batch.id));
    }
  },

  async 'beta.messages'() {
    const { messages } = client().beta;
    checkMessage(await messages.create({ ...question(LONG), betas: ['prompt-caching-2024-07-31'] }));
    await checkCount(messages);
  },

  async 'beta.messages.stream'() {
    const { messages } = client().beta;
    if (!messages.stream) return NOT_OFFERED;
    await checkStream(messages);
  },

  async 'beta.models'() {
    if (!client().beta.models) return NOT_OFFERED;
    await checkModels(client().beta.models);
  },

  async 'asynchronous client'() {
    return NOT_OFFERED; // every TypeScript client is one: the other rows speak for it
  },

  // --- doors: keys, workspaces, paths

  async 'key in `X-Api-Key`'() {
    if ((await headerSent()) === 'x-api-key') return undefined; // the old ones send it by themselves
    assert.equal(await headerSent({ apiKey: null, defaultHeaders: { 'X-Api-Key': key } }), 'x-api-key');
  },

  async 'key in `Authorization`'() {
    assert.equal(await headerSent({ apiKey: null, authToken: key }), 'authorization');
  },

  async 'a key in each header'() {
    const other = (await headerSent()) === 'x-api-key' ? 'Authorization' : 'X-Api-Key';
    const both = { defaultHeaders: { [other]: 'Bearer nobody-has-this' } };
    assert.equal(await headerSent(both), 'x-api-key authorization');
  },

  async 'wrong key'() {
    const nobodys = 'sk-nobody-has-this';
    for (const wrong of [client({ apiKey: nobodys }), client({ apiKey: null, authToken: nobodys })]) {
      const kind = [Anthropic.AuthenticationError, 'authentication_error'];
      await refused(...kind, () => wrong.messages.batches.list());
      await refused(...kind, () => wrong.messages.create(question()));
    }
  },

  async workspaces() {
    const { batches } = client().messages;
    const at = (id) => ({ headers: { 'anthropic-workspace-id': id } });
    const batch = await batches.create({ requests: items(1) }, at(workspace));
    const elsewhere = client(headersOf(other_workspace));
    await refused(Anthropic.PermissionDeniedError, 'permission_error', () => elsewhere.messages.batches.retrieve(batch.id));

    const others = client({ apiKey: other_key }).messages.batches;
    const said = await refused(Anthropic.NotFoundError, 'not_found_error', () => others.retrieve(batch.id));
    assert.equal(said, `Message Batch ${batch.id} not found.`);
    await refused(Anthropic.NotFoundError, 'not_found_error', () => others.cancel(batch.id));
    assert.ok(!(await walk(others.list({ limit: 1000 }))).includes(batch.id));
  },

  async 'unknown id, unknown path'() {
    const { batches } = client().messages;
    const nothing = 'msgbatch_010000000000000000000000';
    for (const ask of ['retrieve', 'results', 'cancel']) {
      const said = await refused(Anthropic.NotFoundError, 'not_found_error', () => batches[ask](nothing));
      assert.equal(said, `Message Batch ${nothing} not found.`);
    }
    await refused(Anthropic.NotFoundError, 'not_found_error', () => client().get('/_stainless_unknown_path'));
  },

  async 'request ids'() {
    const { response } = await client().messages.batches.create({ requests: items(1) }).withResponse();
    assert.match(response.headers.get('request-id'), /^req_/);
    assert.equal(response.headers.get('anthropic-workspace-id'), workspace);
    assert.ok(response.headers.get('anthropic-organization-id'));
    assert.match((await client().messages.create(question()))._request_id, /^req_/);

    const error = await raised(Anthropic.NotFoundError, () => client().messages.batches.retrieve('msgbatch_nothing'));
    const header = error.headers.get?.('request-id') ?? error.headers['request-id'];
    assert.equal(header, error.error.request_id);
  },

  async 'path prefix in the base URL'() {
    const { batches } = client({ baseURL: prefixed_url }).messages;
    const { id } = await batches.create({ requests: items(2) });
    const ended = await untilEnded(batches, id);
    assert.equal(ended.results_url, `${prefixed_url}/v1/messages/batches/${id}/results`);
    const seen = new Set();
    for await (const row of await batches.results(id)) seen.add(row.custom_id);
    assert.deepEqual(seen, new Set(['item-0', 'item-1']));
  },
};

// --- what the steps share

function items(number, tokens = BRIEF) {
  return Array.from({ length: number }, (_, n) => ({ custom_id: `item-${n}`, params: question(tokens) }));
}

function question(tokens = BRIEF) {
  return { model: MODEL, max_tokens: tokens, messages: [{ role: 'user', content: 'Why do geese fly in a V?' }] };
}

function headersOf(workspaceId) {
  return { defaultHeaders: { 'anthropic-workspace-id': workspaceId } };
}

function ids(batches) {
  return batches.map((batch) => batch.id);
}

function plain(object) {
  return JSON.parse(JSON.stringify(object));
}

async function untilEnded(batches, id) {
  const until = Date.now() + END_MS;
  let batch = await batches.retrieve(id);
  const size = sum(batch.request_counts);
  while (batch.processing_status !== 'ended') {
    assert.deepEqual([batch.results_url, batch.ended_at], [null, null]);
    assert.ok(Date.now() < until, `${id} did not end`);
    await pause(50);
    batch = await batches.retrieve(id);
    assert.equal(sum(batch.request_counts), size);
  }
  assert.equal(batch.request_counts.processing, 0);
  return batch;
}

function sum(counts) {
  return Object.values(counts).reduce((total, each) => total + each, 0);
}

async function walk(pages) {
  const walked = [];
  for await (const batch of pages) {
    walked.push(batch.id);
    assert.ok(walked.length < ENOUGH, 'the list does not stop');
  }
  return walked;
}

function checkRows(rows) {
  const { type, error } = rows.get('broken');
  assert.deepEqual([type, error.type], ['errored', 'error']);
  assert.deepEqual([error.error.type, error.error.message], ['invalid_request_error', 'messages: Field required']);
  rows.delete('broken');
  assert.deepEqual(new Set(rows.keys()), new Set(['item-0', 'item-1', 'item-2']));
  for (const { type: kind, message } of rows.values()) {
    assert.equal(kind, 'succeeded');
    checkMessage(message);
    assert.equal(message.usage.service_tier, 'batch');
  }
}

function checkMessage({ id, type, role, content, stop_reason, usage }) {
  assert.deepEqual([type, role, content[0].type], ['message', 'assistant', 'text']);
  assert.ok(id.startsWith('msg_') && content[0].text);
  assert.ok(['end_turn', 'max_tokens'].includes(stop_reason), stop_reason);
  assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0);
  assert.ok(Number.isInteger(usage.cache_creation_input_tokens) && Number.isInteger(usage.cache_read_input_tokens));
}

async function checkStream(messages) {
  let text = '';
  const stream = messages.stream(question(LONG)).on('text', (piece) => (text += piece));
  const message = await stream.finalMessage();
  checkMessage(message);
  assert.equal(message.content[0].text, text);
}

async function checkCount(messages) {
  const count = async (content) =>
    (await messages.countTokens({ model: MODEL, messages: [{ role: 'user', content }] })).input_tokens;
  const short = await count('Geese.');
  const long = await count('Why do geese fly in a V, and who flies in front of it?');
  assert.ok(0 < short && short < long, `${short} and ${long}`);
}

async function checkModels(models) {
  const listed = [];
  for await (const model of models.list({ limit: 1 })) {
    listed.push(model);
    assert.ok(listed.length < ENOUGH, 'the list does not stop');
  }
  assert.ok(listed.length > 0);
  for (const { id, display_name } of listed) {
    const found = await models.retrieve(id);
    assert.deepEqual([found.id, found.type, found.display_name], [id, 'model', display_name]);
    assert.ok(Date.parse(found.created_at) > 0);
  }
  await refused(Anthropic.NotFoundError, 'not_found_error', () => models.retrieve('nobody-serves-this'));
}

// Make a call that needs a key and say which headers carried it.
async function headerSent(changes = {}) {
  let sent;
  const watching = (target, init) => {
    sent = new Headers(init.headers);
    return fetch(target, init);
  };
  await client({ ...changes, fetch: watching }).models.list();
  return ['x-api-key', 'authorization'].filter((name) => sent.has(name)).join(' ');
}

async function refused(kind, errorType, ask) {
  const error = await raised(kind, ask);
  assert.deepEqual([error.error.type, error.error.error.type], ['error', errorType]);
  return error.error.error.message;
}

async function raised(kind, ask) {
  let answer;
  try {
    answer = await ask();
  } catch (error) {
    assert.equal(error.constructor, kind, `${error}`);
    return error;
  }
  throw new Error(`expected ${kind.name}, got ${JSON.stringify(answer)}`);
}

let stray; // an error that nobody waited for counts for the step in which it came up
process.on('unhandledRejection', (error) => (stray = error));

async function outcome(step) {
  stray = undefined;
  try {
    const offered = (await step()) !== NOT_OFFERED;
    if (stray) throw stray;
    return offered ? 'yes' : 'not offered';
  } catch (error) {
    console.error(error);
    return `${error}`;
  }
}

const calls = {};
for (const [name, step] of Object.entries(story)) calls[name] = await outcome(step);
const manifest = new URL('node_modules/@anthropic-ai/sdk/package.json', import.meta.url);
console.log(JSON.stringify({ sdk: JSON.parse(readFileSync(manifest)).version, calls }));
