/* A Modbus server by libmodbus:  server tcp MAP | server rtu MAP DEVICE UNIT

   MAP: coils, discrete inputs, holding and input registers, SIZE little-endian words each.
   Over TCP it says its port. The words are sent as they stand: the library's own helper for the
   order ABCD swaps bytes (3.1.6). */
#include <modbus/modbus.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE 512

int main(int argc, char **argv) {
    uint16_t words[4][SIZE];
    FILE *map = argc > 2 ? fopen(argv[2], "rb") : NULL;
    if (!map || fread(words, sizeof words, 1, map) != 1) return 2;
    fclose(map);
    modbus_mapping_t *m = modbus_mapping_new(SIZE, SIZE, SIZE, SIZE);
    for (int i = 0; i < SIZE; i++) {
        m->tab_bits[i] = words[0][i] != 0;
        m->tab_input_bits[i] = words[1][i] != 0;
    }
    memcpy(m->tab_registers, words[2], sizeof words[2]);
    memcpy(m->tab_input_registers, words[3], sizeof words[3]);

    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    if (!strcmp(argv[1], "rtu")) {
        modbus_t *line = modbus_new_rtu(argv[3], 115200, 'N', 8, 1);
        modbus_set_slave(line, atoi(argv[4]));
        if (modbus_connect(line) == -1) return 3;
        puts("ready");
        fflush(stdout);
        for (;;) {
            int n = modbus_receive(line, query);
            if (n > 0) modbus_reply(line, query, n, m);
        }
    }
    modbus_t *tcp = modbus_new_tcp("127.0.0.1", 0);
    int listening = modbus_tcp_listen(tcp, 1);
    struct sockaddr_in at;
    socklen_t size = sizeof at;
    getsockname(listening, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    while (modbus_tcp_accept(tcp, &listening) != -1) {
        int n;
        while ((n = modbus_receive(tcp, query)) != -1) modbus_reply(tcp, query, n, m);
        modbus_close(tcp);
    }
    return 0;
}
