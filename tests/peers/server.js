// Node's http and http2, for stories that compare them with and without Weft: server.js <port> [h2]
'use strict';
const h2 = process.argv[3] === 'h2';
const name = (url) => url.slice(url.lastIndexOf('op=') + 3);

function saw(request, size, how) {
  const lines = [`@${name(request.url)}`, `${request.method} ${request.url} ${request.httpVersion}`];
  const raw = request.rawHeaders;
  for (let i = 0; i < raw.length; i += 2) lines.push(`> ${raw[i]}: ${raw[i + 1]}`);
  lines.push(`body ${size} ${how}`);
  for (let i = 0; i < (request.rawTrailers || []).length; i += 2)
    lines.push(`trailer ${request.rawTrailers[i].toLowerCase()}: ${request.rawTrailers[i + 1]}`);
  process.stdout.write(lines.join('\n') + '\n');
}

function answer(request, response, size) {
  const path = request.url.split('?')[0];
  if (path === '/chunked') { response.write('some'); return setTimeout(() => response.end('more'), 20); }
  if (path === '/trailers') {
    response.writeHead(200, { Trailer: 'X-Sum' });
    response.write('some');
    response.addTrailers({ 'X-Sum': '12' });
    return response.end('more');
  }
  if (path === '/hints') response.writeEarlyHints({ link: '</a.css>; rel=preload' });
  if (path === '/empty') { response.statusCode = 204; return response.end(); }
  if (path === '/abort') {
    response.writeHead(200, { 'Content-Length': 100 });
    response.write('some');
    return setTimeout(() => (h2 ? response.stream.close(2) : response.socket.destroy()), 50);
  }
  if (path === '/close' && !h2) response.setHeader('Connection', 'close');
  if (path.startsWith('/status/')) response.statusCode = Number(path.slice(8));
  if (path === '/reason' && !h2) { response.writeHead(200, 'Very Fine', {}); return response.end('fine\n'); }
  response.setHeader('X-Train-Case', '1');
  response.setHeader('x-lower', '2');
  response.setHeader('Set-Cookie', ['a=1', 'b=2']);
  response.end(`read ${size}\n`);
}

function serve(request, response) {
  response.on('error', () => {});
  if (request.url.startsWith('/early')) {
    saw(request, '-', 'early');
    response.writeHead(413, { 'Content-Length': 10 });
    return response.end('too large\n');
  }
  let size = 0;
  request.on('data', (piece) => { size += piece.length; });
  request.on('end', () => { saw(request, size, 'whole'); answer(request, response, size); });
  request.on('aborted', () => saw(request, size, 'aborted'));
  request.on('error', () => {});
}

const server = h2 ? require('http2').createServer({}, serve) : require('http').createServer(serve);
server.on('clientError', (_, socket) => { if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'); });
server.listen(Number(process.argv[2]), '0.0.0.0', () => console.log('listening'));
