// java.net.http: java Client.java <host> <server>=<port>... ; it asks for HTTP/2 by an upgrade (h2c) where the server's name ends in h2c.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;

public class Client {
    record Operation(String name, String method, String path, BodyPublisher body, boolean expect) {}

    public static void main(String[] args) {
        BodyPublisher none = BodyPublishers.noBody();
        BodyPublisher stream = BodyPublishers.fromPublisher(BodyPublishers.ofString("somemore"));
        List<Operation> operations = List.of(
            new Operation("get", "GET", "/echo", none, false),
            new Operation("post", "POST", "/echo", BodyPublishers.ofString("body"), false),
            new Operation("chunked-up", "POST", "/echo", stream, false),
            new Operation("put", "PUT", "/echo", BodyPublishers.ofString("put"), false),
            new Operation("delete", "DELETE", "/echo", none, false),
            new Operation("get-chunked", "GET", "/echo", stream, false),
            new Operation("head", "HEAD", "/echo", none, false),
            new Operation("expect", "POST", "/echo", BodyPublishers.ofString("body"), true),
            new Operation("chunked", "GET", "/chunked", none, false),
            new Operation("trailers", "GET", "/trailers", none, false),
            new Operation("hints", "GET", "/hints", none, false),
            new Operation("404", "GET", "/status/404", none, false),
            new Operation("299", "GET", "/status/299", none, false),
            new Operation("empty", "GET", "/empty", none, false),
            new Operation("early", "POST", "/early", BodyPublishers.ofByteArray(new byte[2_000_000]), false),
            new Operation("close", "GET", "/close", none, false),
            new Operation("old", "GET", "/old", none, false),
            new Operation("abort", "GET", "/abort", none, false),
            new Operation("last", "GET", "/echo", none, false));
        for (int i = 1; i < args.length; i++) {
            String[] server = args[i].split("=");
            HttpClient.Version version = server[0].endsWith("h2c") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
            HttpClient client = HttpClient.newBuilder().version(version).build();
            for (Operation operation : operations) {
                // nginx gives 100 and its answer at once; a client that gets the answer alone waits for ever, beyond its own timeout.
                if (operation.expect() && server[0].equals("nginx")) {
                    continue;
                }
                ask(client, "http://" + args[0] + ":" + server[1], server[0], operation);
            }
        }
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    static void ask(HttpClient client, String base, String server, Operation operation) {
        String name = server + ".java." + operation.name();
        System.out.println("@" + name);
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create(base + operation.path() + "?op=" + name))
                .method(operation.method(), operation.body()).expectContinue(operation.expect())
                .header("X-Order-B", "1").header("x-order-a", "2").timeout(Duration.ofSeconds(10)).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version());
            answer.headers().map().forEach((field, values) ->
                values.forEach(value -> System.out.println("> " + field + ": " + value)));
            System.out.println("body " + answer.body().trim());
        } catch (Exception error) {
            System.out.println("error " + error.getClass().getSimpleName());
        }
    }
}
