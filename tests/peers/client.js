// Node's http and http2 clients: client.js <host> <server>=<port>... ; a server whose name ends in h2 is spoken HTTP/2 to.
'use strict';
const http = require('http');
const http2 = require('http2');
const [host, ...servers] = process.argv.slice(2);
const BIG = Buffer.alloc(2000000, 'x');

// A connection that is reset behind its answer concerns no request any more.
process.on('uncaughtException', () => {});

const OPERATIONS = [
  ['get', 'GET', '/echo', null, { 'X-Order-B': '1', 'x-order-a': '2' }],
  ['post', 'POST', '/echo', ['body'], { 'Content-Length': 4 }],
  ['chunked-up', 'POST', '/echo', ['some', 'more'], {}],
  ['trailers-up', 'POST', '/echo', ['some'], { Trailer: 'X-Up' }],
  ['put', 'PUT', '/echo', ['put'], { 'Content-Length': 3 }],
  ['delete', 'DELETE', '/echo', null, {}],
  ['get-chunked', 'GET', '/echo', ['some', 'more'], { 'Transfer-Encoding': 'chunked' }],
  ['head', 'HEAD', '/echo', null, {}],
  ['cookies', 'GET', '/echo', null, { Cookie: 'a=1; b=2' }],
  ['expect', 'POST', '/echo', ['body'], { Expect: '100-continue', 'Content-Length': 4 }],
  ['chunked', 'GET', '/chunked', null, {}],
  ['trailers', 'GET', '/trailers', null, { TE: 'trailers' }],
  ['trailers-unasked', 'GET', '/trailers', null, {}],
  ['hints', 'GET', '/hints', null, {}],
  ['reason', 'GET', '/reason', null, {}],
  ['404', 'GET', '/status/404', null, {}],
  ['299', 'GET', '/status/299', null, {}],
  ['empty', 'GET', '/empty', null, {}],
  ['early', 'POST', '/early', [BIG], { 'Content-Length': BIG.length }],
  ['close', 'GET', '/close', null, {}],
  ['old', 'GET', '/old', null, {}],
  ['abort', 'GET', '/abort', null, {}],
  ['last', 'GET', '/echo', null, {}],
];

const shown = (lines, raw) => { for (let i = 0; i < raw.length; i += 2) lines.push(`> ${raw[i]}: ${raw[i + 1]}`); };

function one(name, port, agent, [operation, method, path, body, fields]) {
  const lines = [`@${name}.node.${operation}`];
  return new Promise((resolve) => {
    // One that was answered instead of being told to go on never sends its body, and its connection cannot be used again.
    const done = (line) => { if (line) lines.push(line); if (fields.Expect && !request.sent) request.destroy(); resolve(lines); };
    const headers = { ...fields };
    const request = http.request({ host, port, method, agent, headers, path: `${path}?op=${name}.node.${operation}` });
    setTimeout(() => { request.destroy(); done('timeout'); }, 12000).unref();
    request.on('information', (info) => { lines.push(`interim ${info.statusCode} ${info.statusMessage}`); if (info.statusCode !== 100) shown(lines, info.rawHeaders); });
    request.on('error', (error) => done(`error ${error.code}`));
    request.on('response', (response) => {
      let text = '';
      lines.push(`${response.statusCode} ${response.statusMessage}`);
      shown(lines, response.rawHeaders);
      response.on('data', (piece) => { text += piece; });
      response.on('error', (error) => done(`body ${text} error ${error.code}`));
      response.on('end', () => {
        lines.push(`body ${text}`.trim());
        for (let i = 0; i < response.rawTrailers.length; i += 2)
          lines.push(`trailer ${response.rawTrailers[i].toLowerCase()}: ${response.rawTrailers[i + 1]}`);
        done();
      });
    });
    if (operation === 'trailers-up') request.addTrailers({ 'X-Up': '4' });
    const send = () => { for (const piece of body || []) request.write(piece); request.end(); };
    if (headers.Expect) request.on('continue', () => { lines.push('interim 100'); send(); request.sent = true; });
    else send();
  });
}

function two(name, session, [operation, method, path, body, fields]) {
  const lines = [`@${name}.node.${operation}`];
  return new Promise((resolve) => {
    const headers = { ':method': method, ':path': `${path}?op=${name}.node.${operation}` };
    for (const field of Object.keys(fields)) if (!['Transfer-Encoding', 'Trailer', 'Expect'].includes(field)) headers[field] = fields[field];
    const stream = session.request(headers, { endStream: !body, waitForTrailers: operation === 'trailers-up' });
    let text = '';
    const show = (all) => { for (const [key, value] of Object.entries(all)) lines.push(`> ${key}: ${value}`); };
    stream.on('headers', (info) => { lines.push('interim'); show(info); });
    stream.on('response', (all) => show(all));
    stream.on('trailers', (all) => { for (const [key, value] of Object.entries(all)) lines.push(`trailer ${key}: ${value}`); });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-up': '4' }));
    stream.on('data', (piece) => { text += piece; });
    stream.on('error', (error) => lines.push(`error ${error.code}`));
    stream.on('close', () => { lines.push(`body ${text}`.trim(), `reset ${stream.rstCode}`); resolve(lines); });
    stream.setTimeout(10000, () => { lines.push('timeout'); stream.close(); });
    for (const piece of body || []) stream.write(piece);
    if (body) stream.end();
  });
}

(async () => {
  for (const server of servers) {
    const [name, port] = server.split('=');
    const newer = name.endsWith('h2');
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    let session;
    for (const operation of OPERATIONS) {
      if (newer && (!session || session.left)) {
        if (session) session.close();
        session = http2.connect(`http://${host}:${port}`);
        const left = session;
        for (const end of ['error', 'goaway', 'close']) session.on(end, () => { left.left = true; });
      }
      const lines = newer ? await two(name, session, operation) : await one(name, Number(port), agent, operation);
      process.stdout.write(lines.join('\n') + '\n');
    }
    if (session) session.close();
    agent.destroy();
  }
})();
