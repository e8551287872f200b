// The JDK's own HTTP server, for stories that compare it with and without Weft: java Server.java <port>

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

public class Server {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(args[0])), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", Server::handle);
        server.start();
        System.out.println("listening");
    }

    static synchronized void saw(HttpExchange exchange, String how) {
        String target = exchange.getRequestURI().toString();
        StringBuilder text = new StringBuilder("@" + target.substring(target.lastIndexOf("op=") + 3) + "\n");
        text.append(exchange.getRequestMethod() + " " + target + " " + exchange.getProtocol() + "\n");
        exchange.getRequestHeaders().entrySet().stream().sorted((a, b) -> a.getKey().compareTo(b.getKey()))
            .forEach(field -> field.getValue().forEach(value -> text.append("> " + field.getKey() + ": " + value + "\n")));
        System.out.print(text.append("body " + how + "\n"));
        System.out.flush();
    }

    static void handle(HttpExchange exchange) throws java.io.IOException {
        String path = exchange.getRequestURI().getPath();
        if (path.equals("/early")) {
            saw(exchange, "early");
            answer(exchange, 413, "too large\n");
            return;
        }
        int size = exchange.getRequestBody().readAllBytes().length;
        saw(exchange, String.valueOf(size));
        if (path.equals("/chunked")) {
            exchange.sendResponseHeaders(200, 0);
            exchange.getResponseBody().write("some".getBytes());
            exchange.getResponseBody().flush();
            exchange.getResponseBody().write("more".getBytes());
        } else if (path.equals("/empty")) {
            exchange.sendResponseHeaders(204, -1);
        } else if (path.equals("/abort")) {
            exchange.sendResponseHeaders(200, 100);
            exchange.getResponseBody().write("some".getBytes());
            exchange.getResponseBody().flush();
        } else if (path.startsWith("/status/")) {
            answer(exchange, Integer.parseInt(path.substring(8)), "status\n");
        } else {
            if (path.equals("/close")) {
                exchange.getResponseHeaders().set("Connection", "close");
            }
            exchange.getResponseHeaders().set("X-Train-Case", "1");
            exchange.getResponseHeaders().add("Set-Cookie", "a=1");
            exchange.getResponseHeaders().add("Set-Cookie", "b=2");
            answer(exchange, 200, "read " + size + "\n");
        }
        exchange.close();
    }

    static void answer(HttpExchange exchange, int code, String text) throws java.io.IOException {
        boolean head = exchange.getRequestMethod().equals("HEAD");
        exchange.sendResponseHeaders(code, head ? -1 : text.length());
        if (!head) {
            exchange.getResponseBody().write(text.getBytes());
        }
        exchange.close();
    }
}
