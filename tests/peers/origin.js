// Node as an origin behind a gateway: origin.js <port>. It says of each request what it took it for, to the client and in its output.
'use strict';
const server = require('http').createServer((request, response) => {
  let size = 0;
  response.on('error', () => {});
  request.on('error', () => {});
  request.on('data', (piece) => { size += piece.length; });
  request.on('aborted', () => console.log(`broken ${request.method} ${request.url}`));
  request.on('end', () => {
    console.log(`whole ${request.method} ${request.url}`);
    response.end(`took ${request.method} ${request.url} ${size}\n`);
  });
});
server.on('clientError', (error, socket) => {
  console.log(`refused ${error.code}`);
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'));
