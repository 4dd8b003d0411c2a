import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Just enough of VDSM's JSON-RPC over STOMP to delete an image, without TLS. A stand-in: oVirt's
 * engine has vdsm-jsonrpc-java for this.
 */
final class Vdsm implements AutoCloseable {
    /** VDSM has answered with an error: it has not started a task and will not. */
    static final class Refused extends Exception {
        private static final long serialVersionUID = 1;

        Refused(String message) {
            super(message);
        }
    }

    /** Nobody knows whether VDSM has started a task, or will. */
    static final class Unknown extends Exception {
        private static final long serialVersionUID = 1;

        Unknown(String message) {
            super(message);
        }
    }

    private static final int ANSWER_TIMEOUT_MS = 60_000;
    private static final Pattern RESULT = Pattern.compile("\"result\": *\"([0-9a-f-]{36})\"");
    private static final Pattern ERROR =
            Pattern.compile("\"code\": *(-?\\d+), *\"message\": *\"((?:[^\"\\\\]|\\\\.)*)\"");

    private final Socket socket = new Socket();
    private final String replyTo = UUID.randomUUID().toString();

    Vdsm(String host, int port) throws IOException {
        socket.connect(new InetSocketAddress(host, port), 10_000);
        socket.setSoTimeout(ANSWER_TIMEOUT_MS);
        send("CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n");
        if (!receive().startsWith("CONNECTED")) {
            throw new IOException("VDSM does not speak STOMP 1.2");
        }
        // A reply queue of our own, subscribed before the first request.
        send("SUBSCRIBE\ndestination:" + replyTo + "\nack:auto\nid:" + UUID.randomUUID() + "\n\n");
    }

    /** Starts the deletion of an image on the SPM; returns VDSM's task id. */
    UUID deleteImage(UUID image, UUID pool, UUID domain, UUID correlation) throws Refused, Unknown {
        String id = UUID.randomUUID().toString();
        String body = """
                {"jsonrpc": "2.0", "method": "Image.delete", "id": "%s", "params": {"imageID": "%s", \
                "storagepoolID": "%s", "storagedomainID": "%s", "postZero": "false", \
                "discard": false, "force": "false"}}""".formatted(id, image, pool, domain);
        try {
            send("SEND\ndestination:jms.topic.vdsm_requests\ncontent-type:application/json\n"
                    + "reply-to:" + replyTo + "\novirtCorrelationId:" + correlation
                    + "\ncontent-length:" + body.length() + "\n\n" + body);
            String answer = receive();
            while (!answer.contains(id)) {
                answer = receive();
            }
            Matcher result = RESULT.matcher(answer);
            if (result.find()) {
                return UUID.fromString(result.group(1));
            }
            Matcher error = ERROR.matcher(answer);
            if (error.find()) {
                throw new Refused("code " + error.group(1) + ": " + error.group(2));
            }
            throw new Unknown("an answer that is neither a task id nor an error: " + answer);
        } catch (IOException lost) {
            throw new Unknown("no answer: " + lost.getMessage());
        }
    }

    @Override
    public void close() throws IOException {
        socket.close();
    }

    private void send(String frame) throws IOException {
        socket.getOutputStream().write((frame + "\0").getBytes(StandardCharsets.UTF_8));
    }

    /** One frame. Those that VDSM sends have a NUL at their end and none before. */
    private String receive() throws IOException {
        InputStream input = socket.getInputStream();
        ByteArrayOutputStream frame = new ByteArrayOutputStream();
        for (int octet = input.read(); octet != 0; octet = input.read()) {
            if (octet < 0) {
                throw new IOException("VDSM has closed the connection");
            }
            if (octet != '\n' || frame.size() > 0) {
                frame.write(octet);
            }
        }
        return frame.toString(StandardCharsets.UTF_8);
    }
}
