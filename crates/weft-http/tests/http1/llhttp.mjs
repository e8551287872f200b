// What Node's server, and so llhttp, makes of bytes: one connection for each line of hexadecimal digits on stdin, one
// line on stdout for each request it saw: case, method, target, fields, body, trailers.
import http from 'node:http'
import { Duplex } from 'node:stream'
import { createInterface } from 'node:readline'

const hex = (text) => Buffer.from(text, 'latin1').toString('hex')
const pairs = (raw) => {
  const out = []
  for (let at = 0; at < raw.length; at += 2) out.push(`${hex(raw[at])}:${hex(raw[at + 1])}`)
  return out.join(',')
}

const carry = (index, bytes) =>
  new Promise((done) => {
    const lines = []
    const server = http.createServer((request, response) => {
      const body = []
      request.on('error', () => {})
      request.on('data', (piece) => body.push(piece))
      request.on('end', () => {
        const parts = [index, request.method, hex(request.url), pairs(request.rawHeaders)]
        lines.push([...parts, Buffer.concat(body).toString('hex'), pairs(request.rawTrailers)].join('\t'))
        response.end()
      })
    })
    // The peer has sent all it has, and never closes.
    const stream = new Duplex({ read() {}, write(piece, encoding, next) { next() } })
    server.on('clientError', (error, socket) => socket.destroy())
    server.emit('connection', stream)
    stream.push(bytes)
    setTimeout(() => { stream.destroy(); done(lines) }, 50)
  })

const cases = []
for await (const line of createInterface({ input: process.stdin })) cases.push(Buffer.from(line, 'hex'))
const all = await Promise.all(cases.map((bytes, index) => carry(index, bytes)))
process.stdout.write(all.flat().map((line) => line + '\n').join(''))
